"""Jobs at their recorded times, as the turns that the fixed-schedule simulation takes."""

import heapq
from collections.abc import Sequence

from agentcache.model import Stop
from agentcache.sim import fixed
from agentcache_workloads.replay.engines.fixed_schedule import UNRECORDED_SERVICE_S
from agentcache_workloads.replay.jobs.closed_loop import ClosedLoop
from agentcache_workloads.replay.jobs.jobs import Job, Turn

_STOPS = {"tool_use": Stop.TOOL_USE, "end_turn": Stop.END_TURN, "max_tokens": Stop.LENGTH}


def recorded_turns(jobs: Sequence[Job], slots: int, hints: bool = True) -> list[fixed.Turn]:
    """The turns of a closed loop of `slots` jobs in which every call takes its recorded time and nothing queues.

    A trace's block ids are the keys, so the pool's blocks have the trace's block size; outputs store no block of their
    own (the next prompt carries them). With `hints`, turns name their job and its last turn.
    """
    loop = ClosedLoop(jobs, slots, 1.0, 0.0)
    running: list[tuple[float, int, int, Turn]] = []
    turns: list[fixed.Turn] = []
    while not loop.done:
        now = min(at for at in (loop.next_s, running[0][0] if running else None) if at is not None)
        while running and running[0][0] <= now:
            end_s, number, _, turn = heapq.heappop(running)
            loop.finish(number, turn, end_s)
        for start_s, number, turn in loop.due(now):
            service_s = UNRECORDED_SERVICE_S if turn.call.api_s is None else turn.call.api_s
            heapq.heappush(running, (start_s + service_s, number, turn.index, turn))
            turns.append(
                fixed.Turn(
                    id=turn.id,
                    start_s=start_s,
                    end_s=start_s + service_s,
                    prompt_tokens=max(turn.call.in_tok, 1),
                    keys=tuple(turn.call.items or ()),
                    job=jobs[number].id if hints else None,
                    context=f"{jobs[number].id}/{turn.context}" if hints else None,
                    stop=_STOPS.get(turn.call.stop or "", Stop.UNKNOWN),
                    last=loop.is_last(number, turn) or None if hints else None,
                )
            )
    return turns
