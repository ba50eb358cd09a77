"""The jobs of a scheduler that pins whole requests: what both adapters tell a rule, and what it answers them."""

from dataclasses import dataclass

from agentcache_continuum.pauses import Conflicts, Pauses
from agentcache_continuum.rules import Rule

MAX_JOBS = 16384


@dataclass(slots=True)
class _Job:
    """`place` in the order of arrival; `open` turns are in the engine, `turns` have finished."""

    place: int
    open: int = 0
    turns: int = 0
    over: bool = False


class Jobs:
    """Feeds one rule. Times are seconds on one monotonic clock; a job may have several turns in flight."""

    def __init__(self, rule: Rule, most: int = MAX_JOBS) -> None:
        self.rule = rule
        self.conflicts = Conflicts()
        self.pauses = Pauses(rule, self.conflicts)
        self._most = most
        self._jobs: dict[str, _Job] = {}
        self._places = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def place(self, job: str) -> int:
        """The job's place in the order of arrival; a job that nobody has seen comes last."""
        found = self._jobs.get(job)
        return found.place if found else self._places + 1

    def turns(self, job: str) -> int:
        """Finished turns of a job."""
        found = self._jobs.get(job)
        return found.turns if found else 0

    def arrived(self, job: str, tool: str | None, now: float) -> None:
        """A turn has arrived; `tool`: the one that it says has run."""
        found = self._jobs.pop(job, None)
        if found is None:
            self._places += 1
            found = _Job(self._places)
            self._trim()
        self._jobs[job] = found  # the latest to be active is the last to be forgotten
        self.conflicts.turn_after_end += found.over
        self.conflicts.concurrent_turns += found.open > 0
        found.over = False
        found.open += 1
        self.pauses.come_back(job, tool, now)

    def finished(self, job: str, tool: str | None, reload_s: float, now: float, last: bool) -> float:
        """A turn has finished and calls `tool`, or none; returns the seconds to keep its context, 0 for none."""
        if (found := self._jobs.get(job)) is None:
            return 0.0
        found.open = max(found.open - 1, 0)
        found.turns += 1
        if last:
            found.over = True
            return 0.0
        if tool is None or found.open:
            return 0.0
        self.pauses.leave(job, tool, now)
        return self.rule.keep_s(tool, reload_s)

    def failed(self, job: str) -> None:
        """A turn was aborted or failed; what its siblings do goes on."""
        if found := self._jobs.get(job):
            found.open = max(found.open - 1, 0)

    def ended(self, job: str) -> None:
        """The job is over, and all its turns were seen."""
        if (found := self._jobs.get(job)) and not found.open:
            del self._jobs[job]
            self.pauses.forget(job)

    def _trim(self) -> None:
        """Forget the job that has been idle for longest, if there are too many."""
        if len(self._jobs) >= self._most:
            idle = next((name for name, job in self._jobs.items() if not job.open), next(iter(self._jobs)))
            del self._jobs[idle]
            self.pauses.forget(idle)
