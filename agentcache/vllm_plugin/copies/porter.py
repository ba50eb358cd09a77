"""The porter: has blocks copied down to host memory as they leave the pool, and up again before a turn that needs them.

A block of the pool bears a key only once its copy is known to be whole, so that look-up, allocation and rows need not
know of host memory: what is loaded is found like anything else. A turn whose missing blocks are sooner loaded than
computed waits in the queue, which goes on behind it, until they are there; a load that fails, or takes too long, only
ends the wait.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from agentcache.cost import CostModel
from agentcache.cost.loads import LoadPrice, missing_runs
from agentcache.errors import CheckFailed
from agentcache.model import Block
from agentcache.residency.tier import Tier
from agentcache.vllm_plugin.compat import KVCacheBlock, Request, init_logger, make_block_hash_with_group_id
from agentcache.vllm_plugin.copies.orders import Orders, Pair, Report
from agentcache.vllm_plugin.host import Host
from agentcache.vllm_plugin.levels import stock_only

logger = init_logger(__name__)

GUESS_BYTES_PER_S = 5e9
"""Of a load, before one has been timed, here or for the cost profile."""

PATIENCE_S = 10.0
"""How long a turn waits for a load at most."""

FOLLOW, TELL = 0.1, 0.2
"""How much a load's time weighs against those before, and the relative change of prices that is told on."""


@dataclass(slots=True)
class _Load:
    """Blocks of the pool that are being filled, of one request, in ascending order of their indices in it."""

    request: Request
    indices: list[int]
    blocks: list[KVCacheBlock]
    places: list[Block]
    since_s: float
    found: list[KVCacheBlock]  # of the request in the pool, that nobody else would keep there until it starts
    outstanding: int  # blocks that the request will take besides, none of which is taken yet


@dataclass(slots=True)
class _Batch:
    """What the orders of a step began."""

    written: list[Block] = field(default_factory=list)
    loads: list[_Load] = field(default_factory=list)


class Porter:
    """Of one engine, whose blocks are of `block_bytes`."""

    def __init__(self, host: Host, manager: Any, tier: Tier, cost: CostModel, block_bytes: int) -> None:
        self.tier = tier
        self.price = LoadPrice.of_link(block_bytes, cost.profile.copy_bytes_per_s or GUESS_BYTES_PER_S)
        self.cost = cost  # until prices are known in this engine's seconds, all that is below is loaded
        self._priced, self._told_s = False, 0.0
        self._host = host
        self._manager = manager
        self._pool = manager.block_pool
        self._number = 0
        self._next = _Batch()  # of the step that is being scheduled
        self._down: list[Pair] = []
        self._up: list[Pair] = []
        self._settle = False
        self._under_way: dict[int, _Batch] = {}
        self._loads: dict[str, list[_Load]] = {}  # that each queued turn has waited for, or does
        self._filling: dict[Any, _Load] = {}  # by key
        self._broken = False
        host.sink, host.reprice, host.load_price = self.sink, self.reprice, self.price

    # In a step that is being scheduled

    def sink(self, victims: Sequence[Block]) -> None:
        """These blocks are about to be overwritten."""
        if self._broken:
            self.tier.fall([block.key for block in victims], self._host.now)
            return
        for block, place in self.tier.sink(victims, self._host.now):
            self._down.append((block.id, place.id))
            self._next.written.append(place)

    def holds(self, request: Request, others: int = 0) -> bool:
        """Whether a queued turn that could start waits for blocks from below instead; asks for them, once.

        `others` run, and wait for what it computes.
        """
        name = request.request_id
        if self._broken or request.num_computed_tokens or request.skip_reading_prefix_cache:
            return False
        if name in self._loads:
            return any(map(self._is_awaited, self._loads[name]))
        if getattr(self._manager, "blocked", None) and self._manager.still_blocked(request):
            return False
        return bool(self._filling or self.tier.held_blocks) and self._begin(request, others)

    def _is_awaited(self, load: _Load) -> bool:
        is_filling = self._filling.get(load.request.block_hashes[load.indices[0]]) is load
        return bool(is_filling and self._host.now - load.since_s <= PATIENCE_S)

    def _begin(self, request: Request, others: int) -> bool:
        """Look the turn up in both levels, and ask for what is sooner loaded, if all of the turn fits into the pool."""
        size, keys = self.cost.block_size, request.block_hashes
        get = self._pool.cached_block_hash_to_block.get_one_block
        missing, shared, found, taken = list[int](), list[_Load](), list[KVCacheBlock](), 0
        for index in range((request.num_tokens - 1) // size):  # the last token is always computed
            block = get(make_block_hash_with_group_id(keys[index], 0))
            if load := self._filling.get(keys[index]) if block is None else None:
                shared.append(load)
            elif block is None:
                missing.append(index)
            elif not block.ref_cnt:
                found.append(block)
            taken += bool(load or (block and block.ref_cnt))
        loads = each_of(shared)
        indices = self._sooner_loaded(request, missing, others)
        if not indices and not loads:
            return False
        need: int = -(-request.num_tokens // size) - taken
        free: int = self._pool.get_num_free_blocks()
        if need > free - sum(load.outstanding for load in each_of(self._filling.values()) if self._is_awaited(load)):
            return bool(need <= free)  # it waits for those that wait; else vLLM says that it does not fit
        if indices:
            loads.append(self._load(request, indices, found, need - len(indices) - len(found)))
        self._loads[request.request_id] = loads
        return True

    def _sooner_loaded(self, request: Request, missing: list[int], others: int) -> list[int]:
        if not any(request.block_hashes[index] in self.tier for index in missing):
            return []
        reuse = "prefix" if stock_only(request) else self._host.residency.policy.reuse
        price = self.price if self._priced else LoadPrice(0.0)
        named = [(index, request.block_hashes[index]) for index in missing]
        return [
            index
            for start, end in self.tier.split(named, reuse, self.cost, price, others=others).loaded
            for index in range(start, end)
        ]

    def _load(self, request: Request, indices: list[int], found: list[KVCacheBlock], outstanding: int) -> _Load:
        now = self._host.now
        keys = [request.block_hashes[index] for index in indices]
        places = [place for place in self.tier.find(keys) if place]
        self.tier.pin(places, now)  # before room is made above, which may cost room here
        self._pool.touch(found)  # nor is it made of what the load is to stand beside
        blocks = self._pool.get_new_blocks(len(indices))
        load = _Load(request, indices, blocks, places, now, found, outstanding)
        self._up += [(block.block_id, place.id) for block, place in zip(blocks, places, strict=True)]
        self._filling.update(dict.fromkeys(keys, load))
        self._next.loads.append(load)
        return load

    def take(self, started: Iterable[str]) -> Orders | None:
        """The step is scheduled, these turns among it: what its worker is to copy."""
        for name in self._loads.keys() & started:
            del self._loads[name]
        if not (self._down or self._up or self._settle):
            return None
        self._number += 1
        orders = Orders(self._number, tuple(self._down), tuple(self._up), self._settle)
        if orders.down or orders.up:  # of which there will be reports
            self._under_way[self._number], self._next = self._next, _Batch()
        self._down, self._up, self._settle = [], [], False
        return orders

    # When steps come back

    def hear(self, reports: Sequence[Report] | None) -> None:
        """What the worker reports with a step's output; None is a worker that makes no copies."""
        if reports is None:
            if not self._broken and self._under_way:
                self._broken = True
                logger.warning("AgentCache: this worker makes no copies, so that host memory stays empty")
                for number in list(self._under_way):
                    for up in (False, True):
                        self._over(Report(number, up, failed=True))
            return
        for report in reports:
            self._over(report)

    def _over(self, report: Report) -> None:
        batch = self._under_way.get(report.number)
        if batch is None:  # nobody wants it any more
            return
        way = "up" if report.up else "down"
        blocks = sum(len(load.blocks) for load in batch.loads) if report.up else len(batch.written)
        with self._host.spare("accounts"):
            meter, outcome = self._host.meter, "failed" if report.failed else "copied"
            meter.count("agentcache_tier_blocks_total", way, outcome, by=blocks)
            meter.count("agentcache_tier_copy_seconds_total", way, by=report.seconds)
        if report.up:
            loads, batch.loads = batch.loads, []
            for load in loads:
                self._arrived(load, not report.failed)
            if loads and not report.failed:
                self._time(report.seconds / blocks)
        else:
            written, batch.written = batch.written, []
            if report.failed:
                self.tier.failed(written)
            else:
                self.tier.written(written[::-1], self._host.now)  # tail first
        if not batch.loads and not batch.written:
            del self._under_way[report.number]

    def _arrived(self, load: _Load, whole: bool, spoilt: bool = True) -> None:
        """A load is over: its blocks are found from now on, or hold nothing, and what it read is not to be trusted."""
        request, now = load.request, self._host.now
        self.tier.unpin(load.places, now, loaded=whole)
        for index in load.indices:
            self._filling.pop(request.block_hashes[index], None)
        if whole:
            self._name(load)
            if request.request_id in self._loads:  # it has yet to start, and nobody has given it up
                tokens = len(load.blocks) * self.cost.block_size
                self._host.loaded[request.request_id] = self._host.loaded.get(request.request_id, 0) + tokens
        elif spoilt:
            self.tier.drop([place.key for place in load.places], now)
        self._pool.free_blocks(reversed([*load.found, *load.blocks]))

    def _name(self, load: _Load) -> None:
        """The blocks bear their keys; one call for each run of them keeps vLLM's KV events true."""
        filled = iter(load.blocks)
        for start, end, _ in missing_runs((index, True) for index in load.indices):
            table = [self._pool.null_block] * start + list(islice(filled, end - start))
            self._pool.cache_full_blocks(load.request, table, start, end, self.cost.block_size, 0)

    def _time(self, block_s: float) -> None:
        """Loads have taken so long a block."""
        self.price = LoadPrice(self.price.block_s + FOLLOW * (block_s - self.price.block_s))
        self._host.load_price = self.price
        if self._priced and abs(self.price.block_s - self._told_s) > TELL * self._told_s:
            self.reprice(self.cost)

    def reprice(self, cost: CostModel) -> None:
        """What rebuilds take from now on, in this engine's seconds."""
        self.cost, self._priced, self._told_s = cost, True, self.price.block_s
        self._host.residency.price_loads(cost, self.price)

    # Ends

    def forget(self, request: Request) -> None:
        """The turn has ended, or begins anew: what is on its way for it comes all the same."""
        self._loads.pop(request.request_id, None)
        self._host.loaded.pop(request.request_id, None)

    def cancel(self) -> None:
        """Nothing that is under way is wanted: blocks are free at once, and places empty, though copies still run."""
        self._settle = bool(self._under_way) or self._settle
        batches = [*self._under_way.values(), self._next]
        self._under_way, self._next = {}, _Batch()
        self._down, self._up = [], []
        for batch in batches:
            for load in batch.loads:
                self._arrived(load, whole=False, spoilt=False)
            self.tier.failed(batch.written)
        self._loads.clear()

    def reset(self) -> None:
        """vLLM's cache has been reset: what is below is of no use either."""
        self.cancel()
        self.tier.reset(self._host.now)

    @property
    def is_busy(self) -> bool:
        """Whether copies are under way, whose reports come with steps."""
        return bool(self._under_way)

    def filling(self) -> Iterable[int]:
        """Blocks of the pool that are being filled."""
        return (block.block_id for load in each_of(self._filling.values()) for block in load.blocks)

    def holding(self) -> Counter[int]:
        """How often blocks of the pool are referenced from here."""
        loads = each_of(self._filling.values())
        return Counter(block.block_id for load in loads for block in (*load.blocks, *load.found))

    def check(self) -> None:
        """Recount; raise `CheckFailed` with the equation that does not hold."""
        self.tier.check()
        batches = [*self._under_way.values(), self._next]
        loads = [load for batch in batches for load in batch.loads]
        if (keys := sum(len(load.indices) for load in loads)) != len(self._filling):
            raise CheckFailed(f"{len(self._filling)} keys are on their way up, loads under way have {keys}")
        if free := [block.block_id for load in loads for block in load.blocks if block.ref_cnt != 1]:
            raise CheckFailed(f"blocks {free} are being filled, and are not the porter's alone")


def each_of(loads: Iterable[_Load]) -> list[_Load]:
    """Each of these once."""
    return list({id(load): load for load in loads}.values())
