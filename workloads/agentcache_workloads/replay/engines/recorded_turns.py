"""Jobs at their recorded times, as the turns that the fixed-schedule simulation takes."""

from collections.abc import Sequence

from agentcache.model import Stop
from agentcache.sim import fixed
from agentcache_workloads.replay.engines.queueing import STOPS
from agentcache_workloads.replay.engines.recorded_times import RecordedTimes, service_s
from agentcache_workloads.replay.jobs.closed_loop import ClosedLoop, drive
from agentcache_workloads.replay.jobs.jobs import PlannedJob, PlannedTurn


def recorded_turns(jobs: Sequence[PlannedJob], slots: int, hints: bool = True) -> list[fixed.Turn]:
    """The turns of a closed loop of `slots` jobs in which every call takes its recorded time and nothing queues.

    A trace's block ids are the keys, so the pool's blocks have the trace's block size; outputs store no block of their
    own (the next prompt carries them). With `hints`, turns name their job and its last turn.
    """
    host = _Noted(jobs, hints)
    drive(ClosedLoop(jobs, slots, 1.0, 0.0), host)
    return host.turns


class _Noted(RecordedTimes):
    """Notes each turn as it is sent."""

    def __init__(self, jobs: Sequence[PlannedJob], hints: bool) -> None:
        super().__init__()
        self.turns: list[fixed.Turn] = []
        self._jobs, self._hints = jobs, hints

    def send(self, due_s: float, number: int, turn: PlannedTurn, last: bool) -> None:
        super().send(due_s, number, turn, last)
        job, hints = self._jobs[number].id, self._hints
        self.turns.append(
            fixed.Turn(
                id=turn.id,
                start_s=self.now,
                end_s=self.now + service_s(turn),
                prompt_tokens=max(turn.call.in_tok, 1),
                keys=tuple(turn.call.items or ()),
                job=job if hints else None,
                context=f"{job}/{turn.context}" if hints else None,
                stop=STOPS.get(turn.call.stop, Stop.UNKNOWN),
                last=(last or None) if hints else None,
            )
        )
