"""Replays in simulated time: the keys that stand for tokens, and whole runs through the command."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentcache.cli.main import app
from agentcache_workloads.replay.jobs.keys import block_keys
from agentcache_workloads.replay.jobs.plan import load_plan
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.spec import Selection

TRACE = Path(__file__).parents[4] / "workloads" / "data" / "cc_weka.tiny.jsonl"


@pytest.mark.parametrize(("k", "size"), [(4, 4), (4, 16), (3, 16), (16, 4)])
def test_keys_are_equal_where_tokens_are(k: int, size: int) -> None:
    plan = load_plan(TRACE, Selection())
    renderer = Renderer(plan.meta, k, 30_000, 1)
    seen: dict[object, tuple[int, ...]] = {}
    found: dict[tuple[int, ...], object] = {}
    for job in plan.jobs[:4]:
        for turn, keys in zip(job.turns, block_keys(job, renderer, k, size), strict=True):
            prompt, output = renderer.render(job, turn)
            tokens = tuple(prompt + output)
            assert len(keys) == len(tokens) // size
            for index, key in enumerate(keys):
                prefix = tokens[: (index + 1) * size]
                assert seen.setdefault(key, prefix) == prefix, "one key, other tokens"
                assert found.setdefault(prefix, key) == key, "the same tokens, another key"


def replay(tmp_path: Path, *flags: str) -> list[dict]:  # type: ignore[type-arg]
    path = tmp_path / "result.json"
    arguments = ["replay", str(TRACE), "--engine", "sim", "--cache-tokens", "200000", "--json", str(path), *flags]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return json.loads(path.read_text())["runs"]  # type: ignore[no-any-return]


def test_the_command_runs_the_simulator(tmp_path: Path) -> None:
    flags = ("--policies", "vllm-lru,lru,return-index", "--admission", "fcfs,working-set", "--block-size", "64")
    runs = replay(tmp_path, *flags)
    assert [(run["policy"], run["admission"]) for run in runs] == [
        ("vllm-lru", "fcfs"),
        ("lru", "fcfs"),
        ("lru", "working-set"),
        ("return-index", "fcfs"),
        ("return-index", "working-set"),
    ]
    assert {run["engine"] for run in runs} == {"sim"} and not any(run["errors"] for run in runs)
    assert runs[0]["job_latencies_s"] == runs[1]["job_latencies_s"], "our lru is stock vLLM's"
    assert runs[0]["rebuild_s_saved"] > 0 and 0 < runs[0]["jain"] <= 1 and runs[0]["slowdown"]["p50"] >= 1
    assert replay(tmp_path, *flags)[4]["job_latencies_s"] == runs[4]["job_latencies_s"], "deterministic"


def test_host_memory_is_told_of_where_there_is_some(tmp_path: Path) -> None:
    flags = ("--policies", "vllm-lru,return-index", "--admission", "working-set", "--block-size", "64")
    flags = (*flags, "--slots", "8", "--cache-tokens", "160000")
    without = replay(tmp_path, *flags)
    runs = replay(tmp_path, *flags, "--host-tokens", "400000", "--host-gbps", "5")
    assert not any("host_memory" in run for run in without)
    told = [run["host_memory"] for run in runs]
    assert [(one["policy"], one["write"]) for one in told] == [("lru", "through"), ("return-index", "evicted")]
    assert {(one["tokens"], one["gbps"]) for one in told} == {(400_000, 5.0)}
    for run, before, one in zip(runs, without, told, strict=True):
        assert 0 < one["loaded_tokens"] <= run["cached_tokens"]
        assert run["computed_tokens"] < before["computed_tokens"]
        assert one["load_s"]["mean"] > 0


@pytest.mark.parametrize("arrival", ["poisson:0.01", "gamma:0.01,2", "all-at-once"])
def test_open_arrivals(tmp_path: Path, arrival: str) -> None:
    (run,) = replay(tmp_path, "--policies", "return-index", "--arrival", arrival, "--no-hints", "--profile", "h20-like")
    assert run["arrival"] == arrival and run["profile"] == "h20-like" and not run["hints"]


def test_an_oracle_of_pauses_is_told_them_and_marked(tmp_path: Path) -> None:
    never, oracle = replay(tmp_path, "--policies", "continuum-never+lru,continuum-oracle+lru", "--slots", "2")
    assert (never["oracle"], oracle["oracle"]) == (False, True)
    for flags in (["--policies", "belady"], ["--policies", "continuum-oracle+lru", "--no-hints"]):
        refused = CliRunner().invoke(app, ["replay", str(TRACE), "--engine", "sim", "--cache-tokens", "200000", *flags])
        assert refused.exit_code == 2
        assert "which nobody tells it here" in " ".join(refused.output.split())


def test_a_profile_that_is_not_there_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["replay", str(TRACE), "--engine", "sim", "--cache-tokens", "200000", "--profile", "h300-like"]
    )
    assert result.exit_code != 0
