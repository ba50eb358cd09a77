"""Which share of each waiting prompt is resident, counted as blocks come and go."""

from collections.abc import Iterable

from agentcache.errors import CheckFailed
from agentcache.model import Key


class ResidentShares:
    """Counts the resident blocks of waiting turns: nothing is walked when a turn is asked for.

    `stored` and `evicted` must tell of every copy of a key.
    """

    def __init__(self) -> None:
        self._copies: dict[Key, int] = {}
        self._prompts: dict[str, tuple[Key, ...]] = {}
        self._resident: dict[str, int] = {}
        self._waiting: dict[Key, set[str]] = {}  # who waits for a block

    def add(self, turn: str, keys: tuple[Key, ...]) -> None:
        """A turn waits with this prompt."""
        self._prompts[turn] = keys
        self._resident[turn] = sum(key in self._copies for key in keys)
        for key in keys:
            self._waiting.setdefault(key, set()).add(turn)

    def remove(self, turn: str) -> None:
        """A turn waits no longer."""
        self._resident.pop(turn, None)
        for key in self._prompts.pop(turn, ()):
            waiting = self._waiting[key]
            waiting.discard(turn)
            if not waiting:
                del self._waiting[key]

    def of(self, turn: str) -> float:
        """The resident share of a waiting turn's full prompt blocks, 0 to 1; 0 for a prompt without one."""
        return self._resident[turn] / len(prompt) if (prompt := self._prompts.get(turn)) else 0.0

    def stored(self, keys: Iterable[Key]) -> bool:
        """Blocks with these keys are resident now; returns whether a share changed."""
        changed = False
        for key in keys:
            copies = self._copies.get(key, 0)
            self._copies[key] = copies + 1
            if not copies and key in self._waiting:
                changed = True
                for turn in self._waiting[key]:
                    self._resident[turn] += 1
        return changed

    def evicted(self, keys: Iterable[Key]) -> bool:
        """Blocks with these keys are gone; returns whether a share changed."""
        changed = False
        for key in keys:
            copies = self._copies.get(key, 0)
            if copies > 1:
                self._copies[key] = copies - 1
                continue
            if copies and key in self._waiting:
                changed = True
                for turn in self._waiting[key]:
                    self._resident[turn] -= 1
            self._copies.pop(key, None)
        return changed

    def check(self) -> None:
        """Recount; raise `CheckFailed` with the equation that does not hold."""
        for turn, keys in self._prompts.items():
            if (counted := sum(key in self._copies for key in keys)) != self._resident[turn]:
                raise CheckFailed(f"turn {turn} has {counted} resident blocks, {self._resident[turn]} are written down")
