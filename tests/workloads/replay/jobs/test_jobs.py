from collections.abc import Callable

import pytest

from agentcache.errors import InputError
from agentcache_workloads.readers.trace import Parent, Session
from agentcache_workloads.replay.jobs.jobs import PlannedJob, build_job

Make = Callable[..., Session]


@pytest.fixture
def family(make_session: Make) -> dict[str, Session]:
    """A root of three calls; the first starts two sub-agents, which end 9 s and 14 s after it as recorded."""
    root = make_session("r", [[1], [1, 2], [1, 2, 3]], pauses=[0, 20.0, 4.0], spawns={0: ("a", "b")})
    a = make_session("a", [[7], [7, 8]], pauses=[0, 3.0], parent=Parent("r", 0, 2.0), duration_s=7.0)
    b = make_session("b", [[9]], parent=Parent("r", 0, 5.0), duration_s=9.0)
    return {session.sid: session for session in (root, a, b)}


def ids(job: PlannedJob) -> list[str]:
    return [turn.id for turn in job.turns]


def test_sub_agents_stand_behind_the_call_that_starts_them(family: dict[str, Session]) -> None:
    job = build_job(family["r"], family)
    assert ids(job) == ["r/0", "a/0", "a/1", "b/0", "r/1", "r/2"]
    assert [turn.after for turn in job.turns] == [(), (0,), (1,), (0,), (0, 2, 3), (4,)]
    # Offsets for sub-agents; r/1 waits for both, and of its 20 s the last 6 are left when b has ended (at 5 + 9 s).
    assert [turn.pause_s for turn in job.turns] == [0.0, 2.0, 3.0, 5.0, 6.0, 4.0]
    assert [turn.kind for turn in job.turns] == ["first", "first", "after_tool", "first", "after_tool", "after_tool"]
    assert [(turn.follows, turn.followed_by) for turn in job.turns] == [
        (None, 4),
        (None, 2),
        (1, None),
        (None, None),
        (0, 5),
        (4, None),
    ]


def test_pauses_are_capped(family: dict[str, Session]) -> None:
    job = build_job(family["r"], family, max_pause_s=3.5)
    assert [turn.pause_s for turn in job.turns] == [0.0, 2.0, 3.0, 3.5, 3.5, 3.5]


@pytest.mark.parametrize("max_calls", range(7))
def test_every_cut_is_a_whole_job(family: dict[str, Session], max_calls: int) -> None:
    job = build_job(family["r"], family, max_calls=max_calls)
    assert len(job.turns) == min(max_calls, 6)
    assert all(before < turn.index for turn in job.turns for before in turn.after)
    assert all(turn.followed_by is None or turn.followed_by < len(job.turns) for turn in job.turns)


def test_a_job_is_cut_at_its_first_call_above_the_limit(make_session: Make) -> None:
    root = make_session("r", [[1], [1, 2, 3], [1]])
    assert ids(build_job(root, {"r": root}, max_ctx=128)) == ["r/0"]
    assert ids(build_job(root, {"r": root}, max_ctx=63)) == []


def test_the_end_of_the_turn_before_decides_where_the_source_is_unsure(make_session: Make) -> None:
    import dataclasses

    root = make_session("r", [[1], [1, 2], [1, 2, 3]], stops=["end_turn", "tool_use", "end_turn"])
    unsure = tuple(dataclasses.replace(c, delay_kind="unknown") for c in root.calls)
    root = dataclasses.replace(root, calls=unsure)
    assert [turn.kind for turn in build_job(root, {"r": root}).turns] == ["first", "after_user", "after_tool"]


def test_a_sub_agent_that_is_not_there_is_refused(family: dict[str, Session]) -> None:
    with pytest.raises(InputError, match="turn 0 of session 'r' starts 'b'"):
        build_job(family["r"], {"r": family["r"], "a": family["a"]})


def test_an_unrecorded_pause_is_refused(make_session: Make) -> None:
    root = make_session("r", [[1], [1, 2]], pauses=[0.0, None])
    with pytest.raises(InputError, match="turn 1 of session 'r' has no recorded pause"):
        build_job(root, {"r": root})
