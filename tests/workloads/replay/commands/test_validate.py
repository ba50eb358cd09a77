"""The live engine beside its simulation: driven by the live clock, they agree call by call."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentcache.cli.main import app
from agentcache.cost import CostModel, CostProfile
from agentcache_workloads.replay.commands.validate import LiveBesideSim, judge
from agentcache_workloads.replay.engines.live_clock import Difference, Driven, drive
from agentcache_workloads.replay.jobs.plan import load_plan
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.result import CallRecord, EngineStep
from agentcache_workloads.replay.spec import Selection
from tests.workloads.replay.specs import run_spec

PRICE = CostProfile(c_lin=1e-4, c_att=1e-9)


def row(cached: int, latency_s: float, differences: tuple[Difference, ...] = ()) -> LiveBesideSim:
    driven = Driven(500, 3, 3, differences)
    return LiveBesideSim("lru", "fcfs", 1, 1000, 500, driven, 10.0, cached, latency_s)


@pytest.mark.parametrize(
    ("rows", "fine"),
    [
        ([row(515, 10.5)], [True, True]),
        ([row(530, 10.5)], [True, False]),
        ([row(500, 11.5)], [True, False]),
        ([row(500, 10.0), row(900, 30.0), row(505, 10.1)], [True, True]),  # medians
        ([row(500, 10.0, (Difference("t", 1, 2, 0, 0),))], [False, True]),
    ],
)
def test_what_is_close_enough(rows: list[LiveBesideSim], fine: list[bool]) -> None:
    assert [good for good, _ in judge(rows)] == fine


def test_a_recorded_clock_drives_the_simulator(tiny: Path) -> None:
    """One turn, then the turn that extends it: the second finds what the first computed."""
    plan = load_plan(tiny, Selection(max_calls=2))
    size = {"tokens_per_block": 4, "block_size": 4, "cache_blocks": 20_000}
    spec = run_spec(time_scale=0.0, max_batched_tokens=100_000, max_context_tokens=100_000, **size)
    job = next(job for job in plan.jobs if len(job.turns) == 2 and job.turns[1].after == (0,))
    renderer = Renderer(plan.meta, 4, 1000, 1)
    first, second = job.turns
    outputs = [renderer.sizes(turn).output for turn in job.turns]
    ends = [float(sum(outputs[:1])), float(sum(outputs))]
    steps = [EngineStep([], float(i), i + 1.0) for i in range(sum(outputs))]
    steps[0] = EngineStep([first.id], 0.0, 1.0)
    steps[outputs[0]] = EngineStep([second.id], ends[0], ends[0] + 1.0)
    calls = [
        CallRecord(turn.id, turn.kind, 0.0, renderer.sizes(turn).prompt, 1, finished_s=end)
        for turn, end in zip(job.turns, ends, strict=True)
    ]
    driven = drive(steps, calls, [job], renderer, CostModel(PRICE, 4), spec, max_seqs=8, max_segments=8)
    assert (driven.calls, driven.same_ends) == (2, 2)
    assert [(d.turn, d.live_cached_tokens) for d in driven.differences] == [(second.id, 0)]
    shared = (renderer.sizes(first).total - 1) // 4 * 4 if renderer.extension(job, first) else 0
    assert driven.differences[0].cached_tokens >= shared > 0


@pytest.mark.vllm
def test_the_live_engine_and_its_simulation_agree(tiny: Path, tmp_path: Path) -> None:
    """Turns of three jobs under pressure, with holes: each finds the same blocks in both."""
    out = tmp_path / "out.json"
    small = ["--model", "tiny-llama", "--tokens-per-block", "2", "--cache-tokens", "5000", "--max-calls", "6"]
    crowded = ["--slots", "3", "--time-scale", "0", "--seeds", "1", "--policies", "lru-holes"]
    result = CliRunner().invoke(app, ["validate-sim", str(tiny), *small, *crowded, "--json", str(out)])
    assert result.exit_code == 0, result.output
    [run] = json.loads(out.read_text())["runs"]
    assert run["driven"]["cached_tokens"] == run["live_cached_tokens"] > 0
    assert run["driven"]["same_ends"] == run["driven"]["calls"] == 36
