from collections.abc import Callable

import pytest

from agentcache_workloads.readers.trace import Meta, Parent, Session
from agentcache_workloads.replay.engines.recorded_times import mean_live_tokens
from agentcache_workloads.replay.jobs.jobs import build_job
from agentcache_workloads.replay.jobs.render import Renderer

Make = Callable[..., Session]


def live(sessions: list[Session], slots: int, meta: Meta) -> float:
    held = {session.sid: session for session in sessions}
    jobs = [build_job(session, held) for session in sessions if session.parent is None]
    return mean_live_tokens(jobs, slots, Renderer(meta, 8, 512, 1), 8)


def test_one_job_by_hand(make_meta: Callable[..., Meta], make_session: Make) -> None:
    # 1 block, tail 1, output 8 = 17 tokens for 2 s of service and 3 s of pause; then 25 tokens for 2 s.
    session = make_session("s", [[1], [1, 2]], pauses=[0, 3.0], api_s=2.0)
    assert live([session], 1, make_meta()) == pytest.approx((17 * 5 + 25 * 2) / 7)


def test_shared_blocks_count_once(make_meta: Callable[..., Meta], make_session: Make) -> None:
    pair = [make_session("s", [[1, 2]]), make_session("t", [[1, 3]])]
    assert live(pair, 2, make_meta()) == pytest.approx(3 * 8 + 2 * 9)
    assert live(pair, 1, make_meta()) == pytest.approx(2 * 8 + 9)  # one after the other


def test_a_context_that_is_reset_is_no_longer_live(make_meta: Callable[..., Meta], make_session: Make) -> None:
    session = make_session("s", [[1, 2, 3], [9]])
    assert live([session], 1, make_meta()) == pytest.approx((33 + 17) / 2)


def test_a_branch_that_has_ended_is_no_longer_live(make_meta: Callable[..., Meta], make_session: Make) -> None:
    # s/0 for 1 s; a/0 beside it for 1 s; then 1 s of pause and 1 s of s/1 without it.
    root = make_session("s", [[1], [1, 2]], pauses=[0, 2.0], spawns={0: ("a",)})
    child = make_session("a", [[5]], parent=Parent("s", 0, 0.0), duration_s=1.0)
    assert live([root, child], 1, make_meta()) == pytest.approx((17 + (17 + 17) + 17 + 25) / 4)
