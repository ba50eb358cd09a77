"""Who is away with which tool, since when: what teaches a rule how long tools take, and what in it made no sense."""

from collections.abc import Hashable
from dataclasses import dataclass

from agentcache_continuum.rules import Rule

LONGEST_S = 3600.0
"""A longer pause says that a person went away, or that a session was abandoned: nothing about the tool."""

UNNAMED = "(unnamed)"
"""A tool was called, and nobody said which."""


@dataclass(slots=True)
class Conflicts:
    """Claims that what happened contradicts, or that make no sense: counted, and otherwise not heeded."""

    unknown_tool: int = 0  # the tool that has run is not the one that was announced
    backward_time: int = 0  # the clock stood before an earlier event's
    turn_after_end: int = 0  # the program had said that it ended
    concurrent_turns: int = 0  # two turns of one program in flight
    negative_duration: int = 0


class Pauses:
    """Remembers at most `most` that are away; whoever has been away for longest is forgotten first."""

    def __init__(self, rule: Rule, conflicts: Conflicts, most: int = 65536) -> None:
        self._rule = rule
        self._conflicts = conflicts
        self._most = most
        self._left: dict[Hashable, tuple[str, float]] = {}

    def __len__(self) -> int:
        return len(self._left)

    def __contains__(self, who: object) -> bool:
        return who in self._left

    def leave(self, who: Hashable, tool: str, now: float) -> None:
        """A turn has finished and called a tool."""
        self._left.pop(who, None)
        self._left[who] = (tool, now)
        if len(self._left) > self._most:
            del self._left[next(iter(self._left))]

    def come_back(self, who: Hashable, tool: str | None, now: float) -> bool:
        """A turn has arrived that says which tool has run, or does not; returns whether it was away with one.

        The client's word counts for the name, the engine's clock for the time.
        """
        left = self._left.pop(who, None)
        if tool is not None and (left is None or left[0] not in (tool, UNNAMED)):
            self._conflicts.unknown_tool += 1
        if left is None:
            return False
        announced, since = left
        if now < since:
            self._conflicts.backward_time += 1
        elif now - since <= LONGEST_S:
            self._rule.returned(announced if tool is None else tool, now - since)
        return True

    def forget(self, who: Hashable) -> None:
        """It is not waited for any more."""
        self._left.pop(who, None)
