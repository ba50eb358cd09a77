import itertools
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from agentcache.errors import ConfigError, InputError
from agentcache_workloads.replay.jobs.plan import load_plan
from agentcache_workloads.replay.spec import Selection


def sha(sid: str) -> bytes:
    return sha256(sid.encode()).digest()


def test_jobs_are_the_first_in_sha_order(demo_trace: Path) -> None:
    everything = [job.id for job in load_plan(demo_trace, Selection()).jobs]
    assert everything == sorted(everything, key=sha)
    assert [job.id for job in load_plan(demo_trace, Selection(sessions=9)).jobs] == everything[:9]


def test_the_order_of_the_file_does_not_matter(tiny: Path, tmp_path: Path) -> None:
    lines = tiny.read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if '"kind":"session"' in line] + [len(lines)]
    sessions = [lines[a:b] for a, b in itertools.pairwise(starts)]
    turned = tmp_path / "turned.jsonl"
    turned.write_text("\n".join([lines[0], *(line for session in reversed(sessions) for line in session)]) + "\n")
    selection = Selection(sessions=4, max_calls=5)
    assert [job.turns for job in load_plan(tiny, selection).jobs] == [
        job.turns for job in load_plan(turned, selection).jobs
    ]


def test_limits(demo_trace: Path) -> None:
    plan = load_plan(demo_trace, Selection(max_calls=7, max_ctx=60_000, max_pause_s=30.0))
    turns = [turn for job in plan.jobs for turn in job.turns]
    assert plan.calls == len(turns)
    assert max(len(job.turns) for job in plan.jobs) == 7
    assert max(turn.call.in_tok for turn in turns) <= 60_000
    assert max(turn.pause_s for turn in turns) == 30.0


def test_a_job_without_a_call_is_not_one(demo_trace: Path) -> None:
    small = load_plan(demo_trace, Selection(max_ctx=20_000))
    assert all(job.turns for job in small.jobs)
    with pytest.raises(ConfigError, match=f"{len(small.jobs)} jobs under these limits, 52 were asked for"):
        load_plan(demo_trace, Selection(sessions=52, max_ctx=20_000))


def test_traces_without_block_ids_are_refused(write_lines: Callable[..., Path], tiny: Path) -> None:
    lines = [json.loads(line) for line in tiny.read_text().splitlines()]
    path = write_lines({**lines[0], "block_size": None}, *lines[1:])
    with pytest.raises(InputError, match="no block ids"):
        load_plan(path, Selection())


def test_an_orphan_is_refused(write_lines: Callable[..., Path], tiny: Path) -> None:
    lines = [json.loads(line) for line in tiny.read_text().splitlines()]
    child = next(line for line in lines if line.get("parent"))
    child["parent"]["turn"] = 99
    with pytest.raises(InputError, match="was started by turn 99"):
        load_plan(write_lines(*lines), Selection())
