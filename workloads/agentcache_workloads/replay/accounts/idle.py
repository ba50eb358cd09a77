"""Token-seconds that paused contexts kept in memory: the price of keeping, counted from the events of any host."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from agentcache.errors import CheckFailed
from agentcache.model import (
    Block,
    BlocksEvicted,
    BlocksStored,
    Decision,
    Event,
    Key,
    TurnAborted,
    TurnArrived,
    TurnFinished,
)
from agentcache.residency import Residency
from agentcache.sim.pool import Pool


class IdleMeter:
    """Integrates the tokens of idle blocks over the host's clock, in `token_s`.

    A block is idle while it is in memory, in the chain of a paused context, and in the prompt of no turn that is queued
    or running. A context is paused from the end of a turn to the arrival of its next one; behind its last turn it is
    over, and what is left of it is kept for nobody. Copies of a block, and a block of several contexts, count once.

    What follows a turn is the trace's truth (`expect`), not the policy's belief: so all policies are measured alike,
    with hints and without. `name` turns a host's request id into the trace's turn id.
    """

    def __init__(self, block_size: int, name: Callable[[str], str] = str) -> None:
        self.token_s = 0.0
        self.now = 0.0
        self._block_size = block_size
        self._name = name
        self._idle = 0
        self._copies: Counter[Key] = Counter()
        self._paused: Counter[Key] = Counter()  # by key, the paused contexts whose chain holds it
        self._used: Counter[Key] = Counter()  # by key, the open turns whose prompt holds it
        self._contexts: dict[str, tuple[str, bool]] = {}
        self._chains: dict[str, tuple[Key, ...]] = {}
        self._prompts: dict[str, tuple[Key, ...]] = {}

    def expect(self, turn: str, context: str, returns: bool) -> None:
        """A turn is about to be sent; `returns`: another one of its context follows it."""
        self._contexts[turn] = context, returns

    def hear(self, event: Event, now: float) -> None:
        """Take in an event; turns that nobody expects are not looked at."""
        self.token_s += self._idle * self._block_size * (now - self.now)
        self.now = now
        match event:
            case BlocksStored(keys):
                self._count(self._copies, keys, 1)
            case BlocksEvicted(keys):
                self._count(self._copies, keys, -1)
            case TurnArrived(turn, keys) if known := self._contexts.get(self._name(turn)):
                self._count(self._paused, self._chains.pop(known[0], ()), -1)
                self._prompts[turn] = keys
                self._count(self._used, keys, 1)
            case TurnFinished(turn, keys) if known := self._closed(turn):
                if known[1]:
                    self._count(self._paused, self._chains.pop(known[0], ()), -1)  # of a turn beside this one
                    self._chains[known[0]] = keys
                    self._count(self._paused, keys, 1)
            case TurnAborted(turn):
                self._closed(turn)

    def give_up(self, contexts: Iterable[str]) -> None:
        """No turn of these will follow."""
        for context in contexts:
            self._count(self._paused, self._chains.pop(context, ()), -1)

    def _closed(self, turn: str) -> tuple[str, bool] | None:
        self._count(self._used, self._prompts.pop(turn, ()), -1)
        return self._contexts.pop(self._name(turn), None)

    def _count(self, counter: Counter[Key], keys: Iterable[Key], by: int) -> None:
        for key in keys:
            before = self._is_idle(key)
            if left := max(counter[key] + by, 0):  # a host may drop what was stored before anybody listened
                counter[key] = left
            else:
                counter.pop(key, None)
            self._idle += self._is_idle(key) - before

    def _is_idle(self, key: Key) -> bool:
        return key in self._copies and key in self._paused and key not in self._used

    def check(self) -> None:
        """Recount; raise `CheckFailed` for a number that does not hold."""
        paused = {key for chain in self._chains.values() for key in chain}
        used = {key for keys in self._prompts.values() for key in keys}
        idle = len((paused & self._copies.keys()) - used)
        if (paused, used, idle) != (set(self._paused), set(self._used), self._idle):
            raise CheckFailed(f"{self._idle} idle blocks are counted, a recount gives {idle}")


class MeteredResidency(Residency):
    """A residency whose events a meter hears."""

    def __init__(self, idle: IdleMeter, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle = idle

    def observe(self, event: Event, now: float) -> list[Decision]:
        decisions = super().observe(event, now)
        self._idle.hear(event, now)
        return decisions


class MeteredPool(Pool):
    """A simulated pool whose meter also hears of blocks that a turn drops unfinished, of which no event tells."""

    def __init__(self, residency: Residency, idle: IdleMeter) -> None:
        super().__init__(residency)
        self._idle = idle

    def drop(self, blocks: Iterable[Block]) -> None:
        blocks = list(blocks)
        super().drop(blocks)
        gone = tuple(block.key for block in blocks if block not in self._references)
        self._idle.hear(BlocksEvicted(gone), self._idle.now)
