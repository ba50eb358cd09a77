"""The fixed-schedule simulation: turns at given times against a pool, so that policies alone differ.

There is no queue and no feedback: every policy sees the same turns at the same times, and what is compared is what
each keeps. Latencies want a simulation with queues, or the live engine.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from agentcache.cost import CostModel
from agentcache.cost.loads import LoadPrice
from agentcache.errors import InputError
from agentcache.model import Block, Key, Stop, TurnArrived, TurnFinished, TurnScheduled
from agentcache.policy import make_policy
from agentcache.policy.base import Foresees, Policy
from agentcache.policy.published.belady import uses_of
from agentcache.residency import Residency
from agentcache.residency.tier import Tier
from agentcache.sim.pool import Pool


@dataclass(frozen=True, slots=True)
class Turn:
    """One LLM call at fixed times: its `prompt_tokens`, and the keys of all its full blocks, prompt and output."""

    id: str
    start_s: float
    end_s: float
    prompt_tokens: int
    keys: tuple[Key, ...]
    job: str | None = None
    context: str | None = None
    stop: Stop = Stop.UNKNOWN
    tool: str | None = None  # the tool about to run
    last: bool | None = None


@dataclass(frozen=True, slots=True)
class TurnRow:
    """What one turn met in the pool.

    `prompt_blocks` could be reused (all full blocks but the one of the last token), `hits` were, `hits_after_hole` of
    them behind a missing block. `missing_runs` counts what had to be computed, the trailing run included. `paid_s`
    and `saved_s` are seconds of prefill by the cost model. `overflow_blocks` did not fit into the pool. Of the hits,
    `loaded` blocks came from the tier, in `load_s` seconds.
    """

    turn: str
    prompt_blocks: int
    hits: int
    hits_after_hole: int
    missing_runs: int
    paid_s: float
    saved_s: float
    overflow_blocks: int
    loaded: int = 0
    load_s: float = 0.0


@dataclass(frozen=True, slots=True)
class FixedRun:
    """All turns of one policy's run, in order of their start."""

    policy: str
    rows: tuple[TurnRow, ...]
    evicted_blocks: int

    @property
    def prompt_blocks(self) -> int:
        return sum(row.prompt_blocks for row in self.rows)

    @property
    def hits(self) -> int:
        return sum(row.hits for row in self.rows)

    @property
    def hits_after_hole(self) -> int:
        return sum(row.hits_after_hole for row in self.rows)

    @property
    def overflow_blocks(self) -> int:
        return sum(row.overflow_blocks for row in self.rows)

    @property
    def paid_s(self) -> float:
        return sum(row.paid_s for row in self.rows)

    @property
    def loaded(self) -> int:
        return sum(row.loaded for row in self.rows)

    @property
    def load_s(self) -> float:
        return sum(row.load_s for row in self.rows)

    @property
    def saved_fraction(self) -> float:
        """1 - prefill seconds paid / paid with nothing resident; c0 and c_seg are in as far as the profile has them."""
        return 1 - self.paid_s / total if (total := sum(row.paid_s + row.saved_s for row in self.rows)) else 0.0


@dataclass(frozen=True, slots=True)
class TierSpec:
    """A tier of `capacity_blocks` blocks under the policy of this spec, from which loads have this price.

    `through`: blocks are copied down as turns end, else as they leave the pool.
    """

    policy: str
    capacity_blocks: int
    price: LoadPrice
    through: bool = False


def run_fixed(
    turns: Iterable[Turn], policy: str, cost: CostModel, capacity_blocks: int, below: TierSpec | None = None
) -> FixedRun:
    """Run turns at their times against a fresh pool of `capacity_blocks` blocks under a policy's spec.

    `vllm-lru` is stock vLLM's order, which is our `lru`. From a tier `below` is loaded what is sooner there. Raises
    `ConfigError` for a bad spec, `InputError` for a turn that ends before it starts or has fewer keys than full prompt
    blocks.
    """
    turns = list(turns)

    def made(spec: str, blocks: int) -> Policy:
        chosen = make_policy("lru" if spec == "vllm-lru" else spec, cost, blocks)
        if "future" in chosen.needs and isinstance(chosen, Foresees):
            chosen.foresee("future", uses_of((turn.start_s, turn.keys) for turn in turns))
        return chosen

    tier = None
    if below:
        tier = Tier(made(below.policy, below.capacity_blocks), below.capacity_blocks, below.through)
    pool = Pool(Residency(made(policy, capacity_blocks), capacity_blocks, tier=tier))
    if below:
        pool.residency.price_loads(cost, below.price)
    schedule = _Schedule(pool, cost, below.price if below else None)
    if len({turn.id for turn in turns}) < len(turns):
        raise InputError("two turns have the same id, expected one each; not run")
    moments = []
    for order, turn in enumerate(turns):
        full_blocks = turn.prompt_tokens // cost.block_size
        if turn.end_s < turn.start_s or turn.prompt_tokens < 1 or len(turn.keys) < full_blocks:
            raise InputError(
                f"turn {turn.id} runs from {turn.start_s} to {turn.end_s} s with {turn.prompt_tokens} prompt tokens "
                f"and {len(turn.keys)} keys, expected an end after its start and keys for {full_blocks} blocks; not run"
            )
        # At one moment blocks come back first and are taken next, except by a turn that takes no time.
        moments += [(turn.start_s, 1, order), (turn.end_s, 0 if turn.end_s > turn.start_s else 2, order)]
    for now, phase, order in sorted(moments):
        if phase == 1:
            schedule.start(turns[order], now)
        else:
            schedule.end(turns[order], now)
    schedule.pool.check()
    return FixedRun(policy, tuple(schedule.rows.values()), schedule.pool.residency.evicted_blocks)


class _Schedule:
    """The host of a fixed schedule: starts and ends turns on a pool."""

    def __init__(self, pool: Pool, cost: CostModel, price: LoadPrice | None) -> None:
        self.pool = pool
        self._price = price
        self.rows: dict[str, TurnRow] = {}
        self._cost = cost
        self._holds: dict[str, list[Block]] = {}  # the blocks of running turns, by index

    def start(self, turn: Turn, now: float) -> None:
        size = self._cost.block_size
        full_blocks = turn.prompt_tokens // size
        limit = (turn.prompt_tokens - 1) // size  # the last token is always computed, for its logits
        self.pool.residency.observe(TurnArrived(turn.id, turn.keys[:full_blocks], turn.job, turn.context), now)

        found = self.pool.find(turn.keys[:limit])
        first_miss = next((index for index, block in enumerate(found) if block is None), limit)
        if self.pool.residency.policy.reuse == "prefix":
            found = found[:first_miss]
        hits = {index: block for index, block in enumerate(found) if block is not None}
        self.pool.acquire(list(hits.values()), now)
        loaded = self._load(turn, [index for index in range(limit) if index not in hits], now)
        if loaded:
            hits = dict(sorted((hits | {block.index: block for block in loaded}).items()))
            first_miss = next((index for index in range(limit) if index not in hits), limit)
        missing = [(index, turn.keys[index]) for index in range(full_blocks) if index not in hits]
        stored = self.pool.store(missing, now)
        self._holds[turn.id] = sorted((*hits.values(), *stored), key=lambda block: block.index)

        segments = _segments(hits, turn.prompt_tokens, size)
        paid = self._cost.segments_seconds(segments, len(hits) * size)
        nothing_resident = self._cost.segments_seconds([(0, turn.prompt_tokens)])
        after_hole = len(hits) - first_miss
        self.rows[turn.id] = TurnRow(
            turn=turn.id,
            prompt_blocks=limit,
            hits=len(hits),
            hits_after_hole=after_hole,
            missing_runs=len(segments),
            paid_s=paid,
            saved_s=nothing_resident - paid,
            overflow_blocks=len(missing) - len(stored),
            loaded=len(loaded),
            load_s=self._price.seconds(len(loaded)) if self._price else 0.0,
        )
        self.pool.residency.observe(
            TurnScheduled(
                turn.id,
                turn.prompt_tokens,
                len(hits) * size,
                after_hole * size,
                len(segments) - 1,
                tuple(segments),
                len(loaded) * size,
            ),
            now,
        )

    def _load(self, turn: Turn, missing: Sequence[int], now: float) -> list[Block]:
        """Blocks that are in place at once: what is sooner loaded than computed, as far as there is room."""
        residency = self.pool.residency
        if not (residency.tier and self._price):
            return []
        places = [(index, turn.keys[index]) for index in missing]
        split = residency.tier.split(places, residency.policy.reuse, self._cost, self._price)
        chosen = {index for start, end in split.loaded for index in range(start, end)}
        read = residency.tier.find(turn.keys[index] for index in sorted(chosen))
        pinned = [block for block in read if block][: self.pool.free_blocks]
        residency.tier.pin(pinned, now)
        stored = self.pool.store([(block.index, block.key) for block in pinned], now)
        residency.tier.unpin(pinned, now)
        return stored

    def end(self, turn: Turn, now: float) -> None:
        full_blocks = turn.prompt_tokens // self._cost.block_size
        output = list(enumerate(turn.keys))[full_blocks:]
        stored = self.pool.store(output, now)
        if short := len(output) - len(stored):
            row = self.rows[turn.id]
            self.rows[turn.id] = replace(row, overflow_blocks=row.overflow_blocks + short)
        self.pool.residency.observe(TurnFinished(turn.id, turn.keys, turn.stop, turn.tool, turn.last), now)
        self.pool.release(reversed(self._holds.pop(turn.id) + stored), now)


def _segments(hits: Iterable[int], tokens: int, size: int) -> Sequence[tuple[int, int]]:
    """The token ranges [p, e) of a prompt that are computed; the last one ends with the prompt."""
    segments = []
    start = 0
    for index in hits:
        if index * size > start:
            segments.append((start, index * size))
        start = (index + 1) * size
    segments.append((start, tokens))
    return segments
