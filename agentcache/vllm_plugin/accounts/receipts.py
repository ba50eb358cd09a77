"""Receipts: for every turn, what of its prompt was reused, what was missing and why, and how long it was held."""

from collections.abc import Sequence

import msgspec

from agentcache.model import (
    Event,
    Key,
    Standing,
    TurnAborted,
    TurnArrived,
    TurnFinished,
    TurnPreempted,
    TurnScheduled,
)
from agentcache.residency import Residency
from agentcache.vllm_plugin.accounts.lines import Lines
from agentcache.vllm_plugin.compat import init_logger

logger = init_logger(__name__)

_AFTER = {Standing.TOOL: "tool", Standing.END_TURN: "user"}


class Receipt(msgspec.Struct):
    """One turn's account. Times are seconds on the engine's monotonic clock, lengths and positions are tokens.

    `after`: what the context's last turn ended with (start, tool, user, unknown), `pause_s` ago. `missed` lists what
    was computed as [start, end) with its cause: a `hole` before resident blocks, a `tail` that the context once had in
    memory, or `never_cached`. `hold_end`: joined, bound or aborted; None if admission never held the turn.
    """

    turn: str
    job: str
    context: str
    after: str
    arrived_s: float
    pause_s: float | None
    opens_job: bool
    prompt_tokens: int = 0
    prefix_tokens: int = 0
    after_hole_tokens: int = 0
    loaded_tokens: int = 0
    missed: list[tuple[int, int, str]] = []
    scheduled_s: float | None = None
    held_s: float = 0.0
    hold_end: str | None = None
    preemptions: int = 0
    ended: str = ""
    ended_s: float = 0.0


class Receipts:
    """Writes one JSON line a turn to `path`, if there is one, and says it in the debug log.

    Raises `ConfigError` for a path that cannot be opened; later, what cannot be written is dropped and counted.
    """

    def __init__(self, residency: Residency, block_size: int, path: str | None = None) -> None:
        self.open: dict[str, Receipt] = {}
        self._residency = residency
        self._block_size = block_size
        self._known: dict[str, int] = {}  # turn -> blocks of its prompt that a context has had
        self._lines = Lines(path, msgspec.json.encode) if path else None

    @property
    def dropped(self) -> int:
        """Accounts that did not get into the file."""
        return self._lines.dropped if self._lines else 0

    def close(self) -> None:
        """Write what still waits to be."""
        if self._lines:
            self._lines.close()

    def expect(self, turn: str, keys: Sequence[Key]) -> None:
        """A turn is about to arrive: note how much of its prompt is known before it is."""
        # Contexts own prefixes of chains, but for what is left of those rewritten: near enough for an account.
        owned, low, high = self._residency.contexts.owned, 0, len(keys)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if keys[middle] in owned else (low, middle)
        if turn not in self.open:
            self._known[turn] = low

    def hear(self, event: Event, now: float) -> Receipt | None:
        """Bring the turn's receipt up to date; returns it, or None for an event of another kind or turn."""
        match event:
            case TurnArrived():
                return self._arrived(event, now)
            case TurnScheduled():
                return self._scheduled(event, now)
            case TurnPreempted(turn) if receipt := self.open.get(turn):
                receipt.preemptions += 1
                return receipt
            case TurnFinished(turn):
                return self._ended(turn, event.stop.value, now)
            case TurnAborted(turn):
                return self._ended(turn, "aborted", now)
        return None

    def held(self, turn: str, end: str, seconds: float) -> None:
        """A hold of the turn is over."""
        if receipt := self.open.get(turn):
            receipt.hold_end = end
            receipt.held_s += seconds

    def _arrived(self, event: TurnArrived, now: float) -> Receipt | None:
        context = self._residency.context_of(event.turn)
        if event.turn in self.open or context is None:
            return None
        again = context.depth > 0
        after = _AFTER.get(context.standing, "unknown") if again else "start"
        pause_s = now - context.idle_since if again and len(context.turns) == 1 else None
        opens = not again and len(context.turns) == 1 and len(self._residency.contexts.of_job(context.job)) == 1
        receipt = Receipt(event.turn, context.job, context.id, after, now, pause_s, opens)
        self.open[event.turn] = receipt
        return receipt

    def _scheduled(self, event: TurnScheduled, now: float) -> Receipt | None:
        receipt = self.open.get(event.turn)
        if receipt is None or receipt.scheduled_s is not None:  # a resumed turn is scheduled again
            return None
        receipt.scheduled_s = now
        receipt.prompt_tokens = event.tokens
        receipt.loaded_tokens = event.loaded
        receipt.prefix_tokens, receipt.after_hole_tokens = event.cached - event.after_hole, event.after_hole
        # The last token is always computed, and its block with it.
        whole = (event.tokens - 1) // self._block_size
        known = min(self._known.pop(event.turn, 0), whole) * self._block_size
        receipt.missed = [(start, end, "hole") for start, end in event.gaps[:-1]]
        for start, end in event.gaps[-1:]:
            split = min(max(start, known), end)
            pieces = ((start, split, "tail"), (split, end, "never_cached"))
            receipt.missed += [piece for piece in pieces if piece[0] < piece[1]]
        return receipt

    def _ended(self, turn: str, how: str, now: float) -> Receipt | None:
        self._known.pop(turn, None)
        receipt = self.open.pop(turn, None)
        if receipt is None:
            return None
        receipt.ended, receipt.ended_s = how, now
        logger.debug("AgentCache: %s", receipt)
        if self._lines:
            self._lines.write(receipt)
        return receipt
