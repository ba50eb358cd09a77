"""AsymCache: evict the block whose expected rebuild seconds are least (arXiv 2606.02964)."""

import math
from collections import OrderedDict
from collections.abc import Set
from typing import Any, ClassVar

from sortedcontainers import SortedList

from agentcache.cost import CostModel
from agentcache.errors import CheckFailed, ConfigError
from agentcache.model import Block, BlocksRestood, Event, Key, Standing, TurnArrived
from agentcache.policy.base import Reuse
from agentcache.policy.pause_window import PauseWindow

START_LIFESPAN_S = 30.0


class AsymCache:
    """Evicts argmin of c f(tau) dT: what a block costs to rebuild times how likely it is to be used again.

    dT is the cost model's price at the block's position (eq. 7), tau the seconds since its last use, and (eq. 9)

        f(tau) = min( exp(-tau/alpha), lambda exp(-(tau - tau0)/beta) )

    flat up to a turning point (`lifespan_s`, where f has fallen to `p`), then `r` times as steep. Neither branch ever
    reorders two blocks, so each is a balanced tree of keys that do not change: in the log domain, since weights
    themselves overflow within minutes. The victim is the lower of the two trees' minima (Algorithm 1). O(log n).

    `lifespan_s` 0 learns it: the P85 of the pauses that followed a tool call. `tool`, `ended` and `superseded` are
    the factors c of a block by its standing (the paper's unspecified tool-call correction). With `online_lambda`
    (eq. 10) the turning point follows the mean idle time at reuse, evicted blocks that came back included.
    """

    name: ClassVar[str] = "asymcache"
    reuse: ClassVar[Reuse] = "holes"
    needs: ClassVar[frozenset[str]] = frozenset()
    _learn_from_tools_only: ClassVar[bool] = True
    _quantile: ClassVar[float] = 0.85
    _quantile_scale: ClassVar[float] = 1.0

    def __init__(
        self,
        cost: CostModel,
        capacity_blocks: int,
        *,
        lifespan_s: float = 0.0,
        p: float = 0.5,
        r: float = 40.0,
        tool: float = 10.0,
        ended: float = 1e-6,
        superseded: float = 0.1,
        online_lambda: bool = False,
    ) -> None:
        for name, value, fine in (
            ("lifespan_s", lifespan_s, lifespan_s >= 0),
            ("p", p, 0 < p < 1),
            ("r", r, r > 1),
            ("tool", tool, tool > 0),
            ("ended", ended, ended > 0),
            ("superseded", superseded, superseded > 0),
        ):
            if not (math.isfinite(value) and fine):
                raise ConfigError(
                    f"policy {self.name!r}: {name} is {value}, which gives no order of eviction; nothing was started",
                    hint="lifespan_s >= 0 (0 learns it), 0 < p < 1, r > 1, factors > 0",
                )
        self._cost = cost
        self._capacity = capacity_blocks
        self._p, self._r = p, r
        self._ln_factor = {Standing.TOOL: math.log(tool), Standing.ENDED: math.log(ended)}
        self._ln_factor[Standing.SUPERSEDED] = math.log(superseded)
        self._online_lambda = online_lambda
        self._learns = lifespan_s == 0
        self._slow: Any = SortedList()  # (k1, *tie, block)
        self._fast: Any = SortedList()  # (k2, *tie, block)
        self._entries: dict[Block, tuple[tuple[Any, ...], tuple[Any, ...]]] = {}
        self._ghosts: OrderedDict[Key, tuple[int, float, Standing]] = OrderedDict()
        self._idle = PauseWindow()
        self._sampled: set[int] = set()  # releases of which a block was reused at `_sampled_at`
        self._sampled_at = -math.inf
        self._ln_lambda = 0.0
        self._set_lifespan(lifespan_s or START_LIFESPAN_S)

    # The order

    def offer(self, block: Block, now: float) -> None:
        if block in self._entries:
            raise ValueError(f"{block} is evictable already")
        self._file(block)

    def touch(self, block: Block, now: float) -> None:
        self.forget(block)
        self._sample(block.release, block.released_at, block.standing, now)

    def forget(self, block: Block) -> None:
        slow, fast = self._entries.pop(block)
        self._slow.remove(slow)
        self._fast.remove(fast)

    def victims(self, need: int, excluded: Set[Block], now: float) -> list[Block] | None:
        if len(self._entries) - sum(block in self._entries for block in excluded) < need:
            return None
        chosen: dict[Block, None] = {}
        slow: Any = iter(self._slow)
        fast: Any = iter(self._fast)
        shift1, shift2 = -now / self._alpha, -(now - self._tau0) / self._beta + self._ln_lambda
        low1: Any = next(slow, None)
        low2: Any = next(fast, None)
        while len(chosen) < need:
            if low2 is None or (low1 is not None and low1[0] + shift1 <= low2[0] + shift2):
                block, low1 = low1[-1], next(slow, None)
            else:
                block, low2 = low2[-1], next(fast, None)
            if block not in excluded:
                chosen[block] = None
        for block in chosen:
            self.forget(block)
            self._ghosts[block.key] = (block.release, block.released_at, block.standing)
            self._ghosts.move_to_end(block.key)
        while len(self._ghosts) > self._capacity:
            self._ghosts.popitem(last=False)
        return list(chosen)

    def observe(self, event: Event, now: float) -> None:
        match event:
            case BlocksRestood(blocks):
                for block in blocks:
                    if block in self._entries:
                        self.forget(block)
                        self._file(block)
            case TurnArrived(keys=keys) if self._ghosts:
                for key in keys:
                    if ghost := self._ghosts.pop(key, None):
                        self._sample(*ghost, now)

    def reprice(self, cost: CostModel) -> None:
        """Use these prices from now on; every block is filed anew."""
        self._cost = cost
        self._set_lifespan(self._lifespan_s)

    def _file(self, block: Block) -> None:
        slow, fast = self._entries[block] = self._entry(block)
        self._slow.add(slow)
        self._fast.add(fast)

    def _entry(self, block: Block) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        weight = self._ln_factor.get(block.standing, 0.0) + math.log(self._cost.block_seconds(block.index))
        # At a constant price all blocks of a turn tie: tail first, then it is LRU.
        tie = (block.release, -block.index, block.id, block)
        return (weight + block.released_at / self._alpha, *tie), (weight + block.released_at / self._beta, *tie)

    # What is learnt

    def _sample(self, release: int, released_at: float, standing: Standing, now: float) -> None:
        """One idle time a context that returns, however many of its blocks are touched."""
        if now != self._sampled_at:
            self._sampled_at = now
            self._sampled.clear()
        if release in self._sampled:
            return
        self._sampled.add(release)
        if self._learn_from_tools_only and standing is not Standing.TOOL and self._learns:
            return
        if self._idle.add(now - released_at):
            self._update()

    def _update(self) -> None:
        if self._learns:
            lifespan = max(self._idle.quantile(self._quantile) * self._quantile_scale, 1e-3)
            # Every change of the lifespan refiles every block, so small ones are let pass.
            if abs(lifespan - self._lifespan_s) > 0.1 * self._lifespan_s:
                self._set_lifespan(lifespan)
        if self._online_lambda:
            mean = min(max(self._idle.mean(), self._lifespan_s / 10), self._lifespan_s * 10)
            self._ln_lambda = (mean - self._tau0) / self._beta - mean / self._alpha

    def _set_lifespan(self, lifespan_s: float) -> None:
        self._lifespan_s = lifespan_s
        self._alpha = -lifespan_s / math.log(self._p)
        self._beta = self._alpha / self._r
        self._tau0 = lifespan_s * (1 - 1 / self._r)
        self._entries = {block: self._entry(block) for block in self._entries}
        self._slow = SortedList(slow for slow, _ in self._entries.values())
        self._fast = SortedList(fast for _, fast in self._entries.values())

    # The books

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, block: object) -> bool:
        return block in self._entries

    def check(self) -> None:
        if not len(self._slow) == len(self._fast) == len(self._entries):
            raise CheckFailed(
                f"{self.name}: {len(self._slow)} in the slow tree, {len(self._fast)} in the fast one, "
                f"{len(self._entries)} evictable"
            )
        for block, entry in self._entries.items():
            if entry != self._entry(block):
                raise CheckFailed(f"{self.name}: {block} is filed under {entry}, its keys are {self._entry(block)}")
        if len(self._ghosts) > self._capacity:
            raise CheckFailed(f"{self.name}: {len(self._ghosts)} ghosts > {self._capacity} blocks")


class AsymCachePaper(AsymCache):
    """AsymCache at its published setting: lifespan the P99 of reuse gaps, p 0.99, r 40, no factors, online lambda."""

    name: ClassVar[str] = "asymcache-paper"
    _learn_from_tools_only: ClassVar[bool] = False
    _quantile: ClassVar[float] = 0.99

    def __init__(
        self,
        cost: CostModel,
        capacity_blocks: int,
        *,
        lifespan_s: float = 0.0,
        p: float = 0.99,
        r: float = 40.0,
        online_lambda: bool = True,
    ) -> None:
        super().__init__(
            cost,
            capacity_blocks,
            lifespan_s=lifespan_s,
            p=p,
            r=r,
            tool=1.0,
            ended=1.0,
            superseded=1.0,
            online_lambda=online_lambda,
        )


class AsymCachePeriodic(AsymCachePaper):
    """AsymCache for nearly periodic pauses: lifespan 0.6 of the P99, p 0.9 (the better cells of its figure 14)."""

    name: ClassVar[str] = "asymcache-periodic"
    _quantile_scale: ClassVar[float] = 0.6

    def __init__(
        self,
        cost: CostModel,
        capacity_blocks: int,
        *,
        lifespan_s: float = 0.0,
        p: float = 0.9,
        r: float = 40.0,
        online_lambda: bool = True,
    ) -> None:
        super().__init__(cost, capacity_blocks, lifespan_s=lifespan_s, p=p, r=r, online_lambda=online_lambda)
