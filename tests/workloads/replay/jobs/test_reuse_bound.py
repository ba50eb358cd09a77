from collections.abc import Callable
from typing import Any

from agentcache_workloads.replay.jobs.jobs import build_job
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.jobs.reuse_bound import known_tokens
from agentcache_workloads.replay.result import CallRecord


def call(turn: str, start_s: float, end_s: float | None, error: str | None = None) -> CallRecord:
    return CallRecord(turn, "first", start_s, 0, 0, start_s, end_s, error=error)


def test_what_had_ended_before_is_known_in_whole_blocks(
    make_meta: Callable[..., Any], make_session: Callable[..., Any]
) -> None:
    """Blocks of 64 trace tokens are rendered as 32: one engine block each, and the outputs are one too."""
    sessions = {
        "a": make_session("a", [[1, 2], [1, 2, 3, 4]], tails=[8, 8]),
        "b": make_session("b", [[1, 2, 9]], tails=[8]),
        "c": make_session("c", [[1, 2]]),
    }
    jobs = [build_job(session, sessions) for session in sessions.values()]
    renderer = Renderer(make_meta(), 32, 512, 0)
    calls = [
        call("a/0", 0.0, 1.0),  # nothing is known yet
        call("b/0", 0.5, 2.0),  # nothing had ended yet
        call("a/1", 1.0, 3.0),  # its own first turn: two blocks, and the output that its third block begins with
        call("c/0", 4.0, 5.0),  # the last token is computed in any case, and its block with it
    ]
    known = known_tokens(jobs, renderer, 32, 32, calls)
    assert known == {"a/0": 0, "b/0": 0, "a/1": 96, "c/0": 64}


def test_calls_that_never_ended_leave_nothing(make_meta: Callable[..., Any], make_session: Callable[..., Any]) -> None:
    sessions = {name: make_session(name, [[1, 2, 3]], tails=[8]) for name in "abc"}
    jobs = [build_job(session, sessions) for session in sessions.values()]
    calls = [call("a/0", 0.0, None), call("b/0", 1.0, 2.0, "failed"), call("c/0", 3.0, 4.0)]
    assert known_tokens(jobs, Renderer(make_meta(), 32, 512, 0), 32, 32, calls) == {"c/0": 0}
