"""The command as users meet it: in a process of its own."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.command import AGENTCACHE
from tests.waiting import until


def replay(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*AGENTCACHE, "replay", *map(str, arguments)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # several on a busy machine wait for each other
    return subprocess.run(command, capture_output=True, text=True, timeout=500, env=one_thread)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.jsonl", "--cache-tokens", 9999], "none.jsonl cannot be read: No such file"),
        (["TINY", "--cache-tokens", 9999, "--policies", "best"], "policy 'best' is not available"),
        (["TINY", "--cache-tokens", 64, "--tokens-per-block", 2, "--model", "MODEL"], "could never run"),
        (["TINY", "--cache-tokens", 0], "--cache-tokens"),
        (["TINY"], "--cache-tokens"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    tiny: Path, tmp_path: Path, arguments: list[object], says: str
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(
        '{"vocab_size": 512, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, '
        '"num_attention_heads": 1}'
    )
    given = [{"TINY": tiny, "MODEL": model}.get(str(a), a) for a in arguments]
    done = replay(*given, "--json", tmp_path / "out.json", "--html", tmp_path / "out.html")
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


SMALL = ["--model", "tiny-llama", "--tokens-per-block", 2, "--cache-tokens", 5000]


@pytest.mark.vllm
def test_the_control_equals_stock_to_the_token(tiny: Path, tmp_path: Path) -> None:
    """One slot and no pauses make the order of turns the same in every run."""
    out, page = tmp_path / "out.json", tmp_path / "out.html"
    fixed = ["--max-calls", 3, "--slots", 1, "--time-scale", 0, "--policies", "vllm-lru,lru"]
    done = replay(tiny, *SMALL, *fixed, "--json", out, "--html", page)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(out.read_text())
    assert result["schema"] == "agentcache-replay/1"
    stock, control = result["runs"]
    for run in (stock, control):
        assert (run["jobs"], run["calls"], run["errors"]) == (6, 18, 0)
        assert run["prompt_tokens"] == run["cached_tokens"] + run["computed_tokens"] == stock["prompt_tokens"]
        assert run["ttft_s"]["all"]["mean"] > 0
        assert run["queue_s"]["mean"] >= 0
    assert all(name.startswith("vllm.") for name in stock["classes"].values())
    assert control["classes"]["scheduler"] == "agentcache.vllm_plugin.scheduler.AgentCacheScheduler"
    assert control["cached_tokens"] == stock["cached_tokens"] > 0
    assert (stock["idle_retained_token_s"], control["unknown"]) == (None, {})
    assert "stock vLLM" in stock["unknown"]["idle_retained_token_s"]
    assert 0 < control["idle_retained_token_s"] < control["cache_tokens"] * control["makespan_s"]
    assert "mean job latency" in done.stdout.splitlines()[-1]
    assert page.read_text().startswith("<!")


@pytest.mark.vllm
@pytest.mark.parametrize("mode", ["fused", "sequential"])
def test_under_pressure_blocks_are_reused_behind_holes(tiny: Path, tmp_path: Path, mode: str) -> None:
    out = tmp_path / "out.json"
    crowded = ["--max-calls", 6, "--slots", 3, "--time-scale", 0, "--policies", "lru-holes", "--mode", mode]
    done = replay(tiny, *SMALL, *crowded, "--json", out)
    assert done.returncode == 0, done.stderr
    [run] = json.loads(out.read_text())["runs"]
    assert (run["jobs"], run["calls"], run["errors"]) == (6, 36, 0)
    assert run["cached_tokens_after_hole"] > 0
    assert run["holes_per_call"]["mean"] > 0
    assert run["evictions"] > 0


@pytest.mark.vllm
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_replay_leaves_no_process_and_no_file(tiny: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "out.json"
    arguments = [*AGENTCACHE, "replay", tiny, *SMALL, "--json", out]
    process = subprocess.Popen(list(map(str, arguments)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: child_of(process.pid) or process.poll() is not None)
    worker = child_of(process.pid)
    assert worker is not None
    process.send_signal(number)
    assert process.wait() not in (0, 1)
    until(lambda: not alive(worker))
    assert list(tmp_path.iterdir()) == []


def child_of(pid: int) -> int | None:
    """The worker that a replay has started, if it has."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == pid and "engines.vllm.worker" in (entry / "cmdline").read_text():
                    return int(entry.name)
            except (OSError, ValueError):
                continue
    return None


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
