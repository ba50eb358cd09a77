"""Servers without a model in the place of the peers; what is real is their processes, and the replay over HTTP."""

import csv
import io
import json
import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentcache.errors import EngineError, InputError
from agentcache_workloads.replay.commands import peer_servers
from agentcache_workloads.replay.commands.peer_servers import Peer, Peers, load_peers, reason, started
from tests.command import AGENTCACHE

STUB = str(Path(__file__).parents[1] / "stub_server.py")
CONFIGS = Path(__file__).parents[4] / "workloads" / "configs" / "peers"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_configurations_that_come_along_can_be_read(path: Path) -> None:
    given = load_peers(path)
    assert (path.parent / given.trace).resolve().is_file()
    rows = [(peer.name, peer.admission) for peer in given.server]
    assert rows[0] == ("vllm-lru", "fcfs")
    assert len(set(rows)) == len(rows)
    assert all("{port}" in given.flags or "{port}" in peer.argv for peer in given.server)


def test_a_configuration_is_strict(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('trace = "x"\nmodel = "m"\nservers = []\n')
    for path in (tmp_path / "p.toml", tmp_path / "none.toml"):
        with pytest.raises(InputError, match="cannot be read as peers"):
            load_peers(path)


def test_one_command_replays_on_all_and_leaves_out_what_does_not_start(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"vocab_size": 512}')
    # The vocabulary stands in the folder that the stub says it serves.
    card = json.dumps({"id": "stub", "root": str(tmp_path / "model"), "max_model_len": 100_000})
    path, out = tmp_path / "p.toml", tmp_path / "out.json"
    path.write_text(f"""
trace = "{tiny}"
model = "{tmp_path / "model"}"
jobs = {{ sessions = 2, max_calls = 2, tokens_per_block = 1, time_scale = 0.0 }}
environment = {{ STUB_CARD = '{card}' }}

[[server]]
name = "vllm-lru"
argv = ["{{python}}", "{STUB}", "{{port}}"]

[[server]]
name = "offload"
argv = ["{{python}}", "-c", "raise RuntimeError('there is no such device')"]

[[server]]
name = "lru"
admission = "working-set"
argv = ["{{python}}", "{STUB}", "{{port}}", 'agentcache_policy_active{{policy="lru"}} 1']
""")
    page = tmp_path / "out.html"
    kept = tmp_path / "out.csv"
    command = [*AGENTCACHE, "peers", str(path), "--json", str(out), "--html", str(page), "--csv", str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(out.read_text())
    rows = [(run["policy"], run["admission"], run["jobs"], run["errors"]) for run in result["runs"]]
    assert rows == [("vllm-lru", "fcfs", 2, 0), ("lru", "working-set", 2, 0)]
    [left] = result["left_out"]
    assert left["policy"] == "offload"
    assert "no such device" in left["reason"]
    assert "no such device" in page.read_text()
    stock, lru, offload = csv.DictReader(kept.open())
    assert (stock["job_latency_mean_s_ratio"], stock["calls"], stock["seed"]) == ("1.0", "4", "1")
    ratio = result["runs"][1]["ttft_s"]["all"]["mean"] / result["runs"][0]["ttft_s"]["all"]["mean"]
    assert float(lru["ttft_mean_s_ratio"]) == pytest.approx(ratio, abs=1e-6)
    assert (offload["policy"], offload["calls"], offload["cores"]) == ("offload", "", stock["cores"])
    assert "no such device" in offload["left_out"]


def test_a_server_is_ended_with_all_its_processes(tmp_path: Path) -> None:
    """It starts a child that would stay, and both are gone behind the context."""
    program = f"import subprocess, sys; subprocess.Popen(['sleep', '600']); exec(open({STUB!r}).read())"
    peer = Peer("x", ["{python}", "-c", program, "{port}"])
    with started(peer, Peers("", "m", [])) as url:
        assert url.startswith("http://127.0.0.1:")
        group = next(pid for pid in _children() if "sleep" in Path(f"/proc/{pid}/cmdline").read_text())
    assert group not in _children()


def _children() -> list[int]:
    """Processes below ours, at any depth, that still run."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    below, found = [os.getpid()], []
    while below:
        one = below.pop()
        mine = [pid for pid, parent in parents.items() if parent == one]
        found += mine
        below += mine
    return found


def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    up = tmp_path / "up"
    program = f"print('waiting for ever', flush=True); open({str(up)!r}, 'w'); import signal; signal.pause()"
    peer = Peer("x", ["{python}", "-c", program])
    # Its second is over when it has said so, however long that takes it on a busy machine.
    monkeypatch.setattr(peer_servers, "time", SimpleNamespace(monotonic=lambda: 2.0 * up.exists(), sleep=time.sleep))
    with (
        pytest.raises(EngineError, match="did not serve within 1 s: waiting for ever"),
        started(peer, Peers("", "m", [], start_s=1.0)),
    ):
        pass


def test_the_reason_is_the_first_error_of_the_log() -> None:
    log = b"WARNING errors like `OSError: 24`\nINFO fine\nValueError: no GPU\nRuntimeError: Engine core failed\nbye\n"
    assert reason(io.BytesIO(log)) == "ValueError: no GPU"
    logged = b"(Worker pid=7) ERROR 11-21 14:15:48 [multiproc_executor.py:1063] Exception: only on GPUs\n"
    assert reason(io.BytesIO(logged)) == "Exception: only on GPUs"
    assert reason(io.BytesIO(b"a\nlast words\n")) == "last words"
    assert reason(io.BytesIO()) == "nothing in its log"
