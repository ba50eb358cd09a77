"""No regret: a shadow of stock LRU runs beside a policy, and says when the policy should step back.

The shadow is metadata only: which prefix of each turn stock vLLM would have found. What the policy really paid is
known from the gaps that each turn had to compute. Over a window of turns the two sums are compared; a policy that
pays more than LRU by `TOLERANCE` gives way to LRU's order for a while, twice as long each time it fails again, and then
tries anew. So the regret is bounded whatever the traffic does, at the price of one losing window a trial. Over a few
turns the sums say little: there, the loss must also stand out of the turns' own differences.
"""

import math
from collections import deque
from collections.abc import Hashable, Sequence
from itertools import repeat
from zlib import crc32

from agentcache.cost import CostModel
from agentcache.errors import CheckFailed
from agentcache.model import Event, Key, PoolResized, TurnAborted, TurnArrived, TurnFinished, TurnScheduled

TOLERANCE = 0.01
WINDOW_TURNS = 500
FEWEST_TURNS = 200
EARLY_TURNS = 24
"""From so many turns on, and up to `FEWEST_TURNS`, a loss counts that is `EARLY_SIGMAS` times its standard error."""
EARLY_SIGMAS = 2.0
FIRST_REST_TURNS = 4 * EARLY_TURNS
MAX_REST_TURNS = 16_000
SAMPLED_FROM_BLOCKS = 65_536
SAMPLE = 16
"""A shadow of a pool of `SAMPLED_FROM_BLOCKS` or more follows one context in `SAMPLE`, in a pool as much smaller."""


_PINNED = 0


class ShadowLru:
    """What stock vLLM would hold: least recently released first, a turn's tail first, prefixes only.

    Whoever uses a block uses all before it, so what is resident of a chain is always a prefix of it, and is found
    by bisection. A chain costs two dict updates a turn, without objects a block. Blocks that two running turns share
    become evictable with the first of them: they are the youngest then.
    """

    def __init__(self, capacity_blocks: int) -> None:
        self.capacity_blocks = capacity_blocks
        self._last: dict[Key, int] = {}  # resident keys, and the release that they came back with
        # Releases, oldest first, of each the head first: those that were tidied up, and the younger ones.
        self._tidy: deque[tuple[int, list[Key]]] = deque()
        self._later: deque[tuple[int, list[Key]]] = deque()
        self._listed = 0  # keys in them, most of which may have been released again since
        self._count = _PINNED

    def prefix(self, keys: Sequence[Key]) -> int:
        """How many blocks from the first on are resident."""
        low, high = 0, len(keys)
        while low < high:
            middle = (low + high + 1) // 2
            if keys[middle - 1] in self._last:
                low = middle
            else:
                high = middle - 1
        return low

    def hold(self, keys: Sequence[Key]) -> int:
        """A turn references this chain; returns for how many blocks from the first on there was room."""
        hits = self.prefix(keys)
        self._last.update(zip(keys[:hits], repeat(_PINNED)))
        held = hits + self._make_room(len(keys) - hits)
        self._last.update(zip(keys[hits:held], repeat(_PINNED)))
        return held

    def release(self, keys: Sequence[Key]) -> None:
        """A turn gives back what it held of this chain."""
        if not keys:  # a prompt without a full block, or one that found no room
            return
        self._count += 1
        self._last.update(zip(keys, repeat(self._count)))
        self._later.append((self._count, list(keys)))
        self._listed += len(keys)
        # Releases of which little is left must not pile up while the pool has room: each turn looks through twice as
        # many keys as it adds.
        looked = 0
        while self._listed > 2 * self.capacity_blocks and looked < 2 * len(keys):
            looked += self._tidy_up()

    def _tidy_up(self) -> int:
        """Look through the oldest release that was not yet; returns how many keys it had."""
        if not self._later:
            self._tidy, self._later = self._later, self._tidy
        release, chain = self._later.popleft()
        if kept := [key for key in chain if self._last.get(key) == release]:
            self._tidy.append((release, kept))
        self._listed += len(kept) - len(chain)
        return len(chain)

    def _make_room(self, need: int) -> int:
        """Evict until so many blocks fit; returns how many do."""
        last = self._last
        while len(last) + need > self.capacity_blocks and (releases := self._tidy or self._later):
            release, chain = releases[0]
            while chain and len(last) + need > self.capacity_blocks:
                key = chain.pop()
                self._listed -= 1
                if last.get(key) == release:
                    del last[key]
            if not chain:
                releases.popleft()
        return max(min(need, self.capacity_blocks - len(last)), 0)

    def check(self) -> None:
        releases = [*self._tidy, *self._later]
        if [release for release, _ in releases] != sorted(release for release, _ in releases):
            raise CheckFailed("shadow LRU: a younger release stands before an older one")
        if (keys := sum(len(chain) for _, chain in releases)) != self._listed:
            raise CheckFailed(f"shadow LRU: releases list {keys} keys, {self._listed} are written down")
        listed = {key for release, chain in releases for key in chain if self._last.get(key) == release}
        evictable = {key for key, release in self._last.items() if release != _PINNED}
        if listed != evictable:
            raise CheckFailed(f"shadow LRU: {len(evictable)} keys are evictable, {len(listed)} are in the order")


class Guard:
    """Compares what a policy pays with what LRU would have paid; `resting` while LRU's order should be used.

    Seconds are the cost model's, of prefill. Turns whose host does not tell their gaps are left out.
    """

    def __init__(self, cost: CostModel, capacity_blocks: int) -> None:
        self._cost = cost
        self._sample = SAMPLE if capacity_blocks >= SAMPLED_FROM_BLOCKS else 1
        self._shadow = ShadowLru(max(capacity_blocks // self._sample, 1))
        self._open: dict[str, tuple[Key, ...]] = {}  # queued turns
        # Running turns: what the shadow holds for them, and whether that is their whole prompt.
        self._held: dict[str, tuple[tuple[Key, ...], bool]] = {}
        self._turns: deque[tuple[float, float]] = deque(maxlen=WINDOW_TURNS)  # (paid, LRU would have paid)
        # Of the window: seconds paid, LRU's, and the squares of their differences.
        self._sums = (0.0, 0.0, 0.0)
        self._rest_turns = FIRST_REST_TURNS
        self._left = 0
        self.paid_s = 0.0
        self.shadow_s = 0.0
        self.rests = 0

    def reprice(self, cost: CostModel) -> None:
        """Blocks cost something else from now on; what the window holds was paid at the old prices, on both sides."""
        self._cost = cost

    @property
    def resting(self) -> bool:
        return self._left > 0

    @property
    def regret(self) -> float:
        """Seconds paid over what LRU would have paid, less 1, in the present window; below 0 is a gain."""
        paid, shadow, _ = self._sums
        return paid / shadow - 1 if self._turns and shadow else 0.0

    def observe(self, event: Event) -> bool:
        """Take an event in; True if `resting` has changed by it."""
        match event:
            case TurnArrived(turn, keys) if self._follows(event.context or event.job or keys[:1]):
                self._open[turn] = keys
            case TurnScheduled(turn, tokens, gaps=gaps) if gaps and turn in self._open:
                keys = self._open.pop(turn)  # what a preempted turn pays again says nothing about eviction
                size = self._cost.block_size
                hits = min(self._shadow.prefix(keys), (tokens - 1) // size)
                held = self._shadow.hold(keys)
                self._held[turn] = (keys[:held], held == len(keys))
                return self._compare(
                    self._cost.segments_seconds(gaps), self._cost.segments_seconds([(hits * size, tokens)])
                )
            case TurnFinished(turn, keys):
                self._open.pop(turn, None)  # some hosts do not say that turns are scheduled
                if given := self._held.pop(turn, None):
                    chain, whole = given
                    self._shadow.release(keys[: self._shadow.hold(keys)] if whole else chain)
            case TurnAborted(turn):
                self._open.pop(turn, None)
                if given := self._held.pop(turn, None):
                    self._shadow.release(given[0])
            case PoolResized(blocks):
                self._shadow.capacity_blocks = max(blocks // self._sample, 1)
        return False

    def _follows(self, who: Hashable) -> bool:
        # Not `hash`, which differs from process to process.
        return self._sample == 1 or crc32(repr(who).encode()) % self._sample == 0

    def _compare(self, paid_s: float, shadow_s: float) -> bool:
        self._remember(paid_s, shadow_s)
        self.paid_s += paid_s
        self.shadow_s += shadow_s
        if self._left:
            self._left -= 1
            if not self._left:
                self._turns.clear()  # what LRU's order paid says nothing about the policy
                self._sums = (0.0, 0.0, 0.0)
            return not self._left
        if not self._loses():
            if len(self._turns) == WINDOW_TURNS:
                self._rest_turns = FIRST_REST_TURNS
            return False
        self._left = self._rest_turns if len(self._turns) < FEWEST_TURNS else max(self._rest_turns, WINDOW_TURNS)
        self._rest_turns = min(2 * self._left, MAX_REST_TURNS)
        self.rests += 1
        return True

    def _remember(self, paid_s: float, shadow_s: float) -> None:
        if len(self._turns) == WINDOW_TURNS:
            self._add(*self._turns[0], sign=-1)
        self._turns.append((paid_s, shadow_s))
        self._add(paid_s, shadow_s, sign=1)

    def _add(self, paid_s: float, shadow_s: float, sign: int) -> None:
        paid, shadow, squares = self._sums
        self._sums = paid + sign * paid_s, shadow + sign * shadow_s, squares + sign * (paid_s - shadow_s) ** 2

    def _loses(self) -> bool:
        """Whether the window says that the policy pays more than LRU would."""
        paid, shadow, squares = self._sums
        if len(self._turns) < EARLY_TURNS or self.regret <= TOLERANCE:
            return False
        return len(self._turns) >= FEWEST_TURNS or paid - shadow > EARLY_SIGMAS * math.sqrt(max(squares, 0.0))

    def check(self) -> None:
        self._shadow.check()
        sums = (
            sum(paid for paid, _ in self._turns),
            sum(shadow for _, shadow in self._turns),
            sum((paid - shadow) ** 2 for paid, shadow in self._turns),
        )
        if not all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) for a, b in zip(sums, self._sums, strict=True)):
            raise CheckFailed(f"guard: the window sums up to {sums}, {self._sums} are written down")
