from collections.abc import Callable

import pytest

from agentcache_workloads.readers.trace import Parent, Session
from agentcache_workloads.replay.hints import hints_of
from agentcache_workloads.replay.jobs.jobs import PlannedJob, build_job


@pytest.fixture
def job(make_session: Callable[..., Session]) -> PlannedJob:
    root = make_session("r", [[1], [1, 2], [1, 2, 3]], stops=["tool_use", "end_turn", "tool_use"], spawns={0: ("a",)})
    child = make_session("a", [[7]], stops=["tool_use"], parent=Parent("r", 0, 0.0), duration_s=1.0)
    return build_job(root, {"r": root, "a": child})


def test_a_turn_that_asks_for_a_tool_and_the_one_behind_it(job: PlannedJob) -> None:
    assert hints_of(job, job.turns[0], last=False) == {"job_id": "r", "is_last_step": 0, "this_func_call": "tool"}
    assert hints_of(job, job.turns[2], last=False) == {"job_id": "r", "is_last_step": 0, "last_func_call": "tool"}


def test_the_last_turn_asks_for_nothing_more(job: PlannedJob) -> None:
    assert hints_of(job, job.turns[3], last=True) == {"job_id": "r", "is_last_step": 1}


def test_the_end_of_a_branch_of_a_job_that_goes_on_claims_nothing(job: PlannedJob) -> None:
    assert hints_of(job, job.turns[1], last=False) == {"job_id": "r"}
