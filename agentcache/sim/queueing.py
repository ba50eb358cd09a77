"""The queueing simulation: one engine that batches turns as vLLM does, in simulated time.

It decides nothing itself: what stays, what leaves, who may run and how long a chunk is are the same `Residency`,
policy and chunking rule as in the plug-in. What is simulated is the engine around them: continuous batching with
chunked prefill over the gaps of a prompt, allocation chunk by chunk, preemption of the youngest turn when the pool is
full, and a step's time by the cost model.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from agentcache.cost import CostModel
from agentcache.errors import CheckFailed, InputError
from agentcache.model import (
    Block,
    Key,
    Stop,
    TurnArrived,
    TurnFinished,
    TurnPreempted,
    TurnScheduled,
)
from agentcache.policy.chunking import Chunking, Decodes
from agentcache.residency import Residency
from agentcache.sim.link import Link
from agentcache.sim.pool import Pool

IDLE_STEP_S = 1e-3
"""How long a step takes in which nothing can run."""

MAX_SEGMENTS = 8
"""Gaps of one prompt that one step computes, as in the plug-in's fused mode."""

MAX_STRETCH = 64
"""Steps that are taken at once while turns are held: the rule of admission must see the clock."""


@dataclass(frozen=True, slots=True)
class Call:
    """One turn as it is sent. `keys` are those of all its full blocks, prompt and output; sizes are in tokens."""

    id: str
    prompt_tokens: int
    output_tokens: int
    keys: tuple[Key, ...]
    job: str | None = None
    context: str | None = None
    stop: Stop = Stop.UNKNOWN
    tool: str | None = None
    last: bool | None = None
    order_key: int = 0


@dataclass(slots=True, eq=False)
class Running:
    """A call in the engine, and what has been seen of it. Times are simulated seconds, None before they come.

    `gaps` are the token ranges that are still to be computed of the prompt (and, after a preemption, of the output so
    far); `done` output tokens have been sampled. The first `reach` blocks are held, and those behind that were found.
    `paid_s` and `saved_s` are seconds of prefill by the cost model. What is `loading` from the tier is in place at
    `ready_s`: until then only what stands before token `loading_from` can be computed.
    """

    call: Call
    arrived_s: float
    gaps: deque[tuple[int, int]] = field(default_factory=deque)
    done: int = 0
    blocks: dict[int, Block] = field(default_factory=dict)
    reach: int = 0
    scheduled_s: float | None = None
    first_token_s: float | None = None
    finished_s: float | None = None
    held_s: float = 0.0
    cached_tokens: int = 0
    cached_after_hole: int = 0
    holes: int = 0
    preemptions: int = 0
    paid_s: float = 0.0
    saved_s: float = 0.0
    loading: list[Block] = field(default_factory=list)  # the tier's
    loading_from: int = 0
    ready_s: float = 0.0
    loaded_tokens: int = 0
    load_s: float = 0.0  # until all that it loads was in place

    @property
    def tokens(self) -> int:
        """Tokens that have been decided so far: the prompt, and what was sampled."""
        return self.call.prompt_tokens + self.done


class Engine:
    """One simulated engine; its clock is the caller's: `step` says how far it went."""

    def __init__(
        self,
        residency: Residency,
        cost: CostModel,
        max_batched_tokens: int = 2048,
        max_seqs: int = 256,
        chunking: Chunking | None = None,
        max_segments: int = MAX_SEGMENTS,
        link: Link | None = None,
    ) -> None:
        self.residency = residency
        self.link = link
        self.pool = Pool(residency)
        self.waiting: list[Running] = []
        self.running: list[Running] = []
        self.preemptions = 0
        self.steps = 0
        self._cost = cost
        self._max_batched_tokens = max_batched_tokens
        self._max_seqs = max_seqs
        self._chunking = chunking or Chunking()
        self._max_segments = max_segments
        self._holes = residency.policy.reuse == "holes"
        self._version = -1
        self._complete: list[Running] = []  # calls whose prompt is complete with this step
        self._written = 0  # blocks that were copied down before this step
        self._arriving: dict[Block, float] = {}  # blocks of the device that are being loaded, and until when

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def submit(self, call: Call, now: float) -> Running:
        """A turn arrives. Raises `InputError` for one that could never run."""
        size = self._cost.block_size
        whole = -(-(call.prompt_tokens + call.output_tokens) // size)
        if call.prompt_tokens < 1 or call.output_tokens < 1 or whole > self.pool.capacity_blocks:
            raise InputError(
                f"turn {call.id} has {call.prompt_tokens} prompt and {call.output_tokens} output tokens, expected at "
                f"least 1 each and at most {self.pool.capacity_blocks} blocks of {size} together; it could never run"
            )
        arrived = TurnArrived(
            call.id, call.keys[: call.prompt_tokens // size], call.job, call.context, None, call.order_key
        )
        self.residency.observe(arrived, now)
        entry = Running(call, now)
        self.waiting.append(entry)
        return entry

    def step(self, now: float, until: float, end: float | None = None) -> tuple[float, list[Running]]:
        """Run one step, or a stretch of equal ones that ends before `until`; returns its end and the finished calls.

        While decodes alone run and nothing else can happen, a stretch is taken at once: its time is the sum of an
        arithmetic series in the context tokens. `end` says when this one step is known to end, by a recorded clock.
        """
        self.residency.admit(now)
        self._sort()
        if self._arriving:
            self._arrive(now)
            until = min([until, *self._arriving.values()])
        self._complete = []
        preempted = self.preemptions
        intact = self._make_room(now)
        decodes = [entry for entry in self.running if not entry.gaps]
        context_tokens = sum(entry.tokens for entry in decodes)
        pairs, prefill_tokens, segments = self._prefill(decodes, context_tokens, now, intact)
        if self.preemptions != preempted:
            decodes = [entry for entry in self.running if entry in decodes]
            context_tokens = sum(entry.tokens for entry in decodes)
        if not decodes and not prefill_tokens:
            if end is None and self._arriving:  # nothing but loads is under way
                return min([until, *self._arriving.values()]), []
            if self.waiting:
                self.residency.stalled()
                return end or now + max(self._cost.profile.floor, IDLE_STEP_S), []
            return now, []
        count = 1 if prefill_tokens or end is not None else self._stretch(decodes, context_tokens, now, until)
        if end is None:
            seconds = self._seconds(len(decodes), context_tokens, prefill_tokens, pairs, segments, count)
            end = now + max(seconds, self._down_s())
        self.steps += count
        return end, self._sample(decodes, count, end)

    def _sort(self) -> None:
        admission = self.residency.admission
        if admission and admission.version != self._version:
            self._version = admission.version
            self.waiting.sort(key=lambda entry: self.residency.rank(entry.call.id))

    # Memory

    def _make_room(self, now: float) -> bool:
        """A slot for the next token of each decode; preempts the youngest while there is none. True if it need not."""
        intact = True
        for entry in list(self.running):
            while entry in self.running and not entry.gaps and not self._ensure(entry, entry.tokens, now):
                intact = False
                self._preempt(self.running[-1], now)
        return intact

    def _ensure(self, entry: Running, tokens: int, now: float) -> bool:
        """Blocks for the first so many tokens of a call, as far as it does not hold them."""
        size, keys = self._cost.block_size, entry.call.keys
        need = -(-tokens // size)
        missing = [index for index in range(entry.reach, need) if index not in entry.blocks]
        if len(missing) > self.pool.free_blocks:
            return False
        entry.reach = max(entry.reach, need)
        if not missing:
            return True
        # A block that never fills has no key that anybody could ask for.
        named = [(index, keys[index] if index < len(keys) else (entry.call.id, index)) for index in missing]
        entry.blocks.update(zip(missing, self.pool.store(named, now), strict=True))
        return True

    def _preempt(self, entry: Running, now: float) -> None:
        self.preemptions += 1
        entry.preemptions += 1
        self.residency.observe(TurnPreempted(entry.call.id), now)
        self._give_back(entry, (entry.tokens - 1) // self._cost.block_size, now)
        entry.gaps.clear()
        self.running.remove(entry)
        self.waiting.insert(0, entry)
        self._version = -1

    def _give_back(self, entry: Running, full_blocks: int, now: float) -> None:
        """Release the first so many blocks, tail first; what was not computed to its end is dropped."""
        size, keys = self._cost.block_size, entry.call.keys
        missing = {
            index for start, end in entry.gaps for index in range(start // size, min(-(-end // size), entry.reach))
        }
        missing.update(range(min(full_blocks, len(keys)), entry.reach))
        if self._arriving:
            coming = {index: block for index, block in entry.blocks.items() if self._arriving.get(block, now) > now}
            missing.update(coming)
        if entry.loading:
            self._unpin(entry, now)
        indices = sorted(entry.blocks, reverse=True)
        dropped = [entry.blocks[index] for index in indices if index in missing]
        self.pool.drop(dropped)
        if self.residency.tier:
            self.residency.tier.fall([block.key for block in dropped], now)
        self.pool.release([entry.blocks[index] for index in indices if index not in missing], now)
        if self._arriving:  # what is still wanted comes to the others who found it
            for block in coming.values():
                if self.pool.idle([block]):
                    del self._arriving[block]
        entry.blocks, entry.reach, entry.ready_s = {}, 0, 0.0

    # Work

    def _prefill(
        self, decodes: Sequence[Running], context_tokens: int, now: float, intact: bool
    ) -> tuple[float, int, int]:
        budget = self._max_batched_tokens - len(decodes)
        step = self._chunking.step(self._cost, Decodes(len(decodes), context_tokens), budget)
        pairs, tokens, segments = 0.0, 0, 0

        def take(entry: Running) -> bool:
            nonlocal pairs, tokens, segments
            chunk = step.take(list(islice(self._open_gaps(entry, now), self._max_segments)), 0)
            if chunk and not self._ensure(entry, _frontier(entry.gaps, chunk), now):
                return False
            for start, end in _spend(entry.gaps, chunk):
                pairs += end * end - start * start
                tokens += end - start
                segments += 1
            if not entry.gaps:
                self._complete.append(entry)
            return True

        for entry in [entry for entry in self.running if entry.gaps]:
            while entry in self.running and step.left > 0 and not take(entry):
                intact = False
                self._preempt(self.running[-1], now)
        position = 0
        while intact and position < len(self.waiting) and step.left > 0 and len(self.running) < self._max_seqs:
            entry = self.waiting[position]
            if not self.residency.may_run(entry.call.id):
                position += 1
                continue
            if not self._start(entry, now):
                break
            self.waiting.pop(position)
            self.running.append(entry)
            take(entry)
        return pairs, tokens, segments

    def _start(self, entry: Running, now: float) -> bool:
        """Reference what is resident of a queued call, if all the rest would fit too."""
        size, call = self._cost.block_size, entry.call
        tokens = entry.tokens
        limit = min((tokens - 1) // size, len(call.keys))
        found = self.pool.find(call.keys[:limit])
        first_miss = next((index for index, block in enumerate(found) if block is None), limit)
        if not self._holes:
            found = found[:first_miss]
        hits = {index: block for index, block in enumerate(found) if block is not None}
        idle = self.pool.idle(hits.values())
        if -(-tokens // size) - len(hits) > self.pool.free_blocks - idle:
            return False
        self.pool.acquire(list(hits.values()), now)
        entry.blocks = hits
        loaded = 0
        if self.link:
            loaded = self._load(entry, limit, now)
            hits = entry.blocks
            first_miss = next((index for index in range(limit) if index not in hits), limit)
        gaps = _gaps(hits, tokens, size)
        entry.gaps = deque(gaps)
        if entry.scheduled_s is None:
            entry.scheduled_s = now
            entry.cached_tokens = len(hits) * size
            entry.cached_after_hole = (len(hits) - first_miss) * size if self._holes else 0
            entry.holes = len(gaps) - 1
            entry.paid_s = self._cost.segments_seconds(gaps, len(hits) * size)
            entry.saved_s = self._cost.segments_seconds([(0, tokens)]) - entry.paid_s
            entry.loaded_tokens = loaded
        if self.residency.admission:
            entry.held_s = self.residency.admission.held_s(call.id, now)
        cached = len(hits) * size
        after = entry.cached_after_hole
        told = TurnScheduled(call.id, tokens, cached, after, len(gaps) - 1, tuple(gaps), loaded)
        self.residency.observe(told, now)
        return True

    # Loads

    def _load(self, entry: Running, limit: int, now: float) -> int:
        """Have those of its missing blocks loaded that are sooner there than computed; returns how many tokens."""
        tier, link, keys = self.residency.tier, self.link, entry.call.keys
        assert tier and link
        missing = [(index, keys[index]) for index in range(limit) if index not in entry.blocks]
        reuse = self.residency.policy.reuse
        loaded = tier.split(missing, reuse, self._cost, link.price, link.wait_s(now), len(self.running)).loaded
        indices = [index for start, end in loaded for index in range(start, end)]
        coming = [(self._arriving[block], index) for index, block in entry.blocks.items() if block in self._arriving]
        if indices:
            entry.loading = [block for block in tier.find(keys[index] for index in indices) if block]
            tier.pin(entry.loading, now)
            ready_s = link.load(len(indices), now)
            stored = self.pool.store([(index, keys[index]) for index in indices], now)
            self._arriving.update(dict.fromkeys(stored, ready_s))
            entry.blocks = dict(sorted((*entry.blocks.items(), *zip(indices, stored, strict=True))))
            coming += [(ready_s, index) for index in indices]
        if coming:
            entry.ready_s = max(ready_s for ready_s, _ in coming)
            entry.loading_from = min(index for _, index in coming) * self._cost.block_size
            entry.load_s += entry.ready_s - now
        return len(indices) * self._cost.block_size

    def _down_s(self) -> float:
        """How long it takes to copy down what left the device since the last step: it is taken out one step ahead."""
        if self.link is None or self.residency.tier is None or self.residency.tier.through:
            return 0.0
        written, self._written = self._written, self.residency.tier.written_blocks
        return self.link.price.seconds(self._written - written)

    def _open_gaps(self, entry: Running, now: float) -> list[tuple[int, int]] | deque[tuple[int, int]]:
        """What of its gaps can be computed now."""
        if now >= entry.ready_s:
            return entry.gaps
        return [gap for gap in entry.gaps if gap[1] <= entry.loading_from]

    def _arrive(self, now: float) -> None:
        """Loads that are over are in place."""
        for entry in self.running:
            if entry.loading and entry.ready_s <= now:
                self._unpin(entry, now)
        self._arriving = {block: ready_s for block, ready_s in self._arriving.items() if ready_s > now}

    def _unpin(self, entry: Running, now: float) -> None:
        assert self.residency.tier
        self.residency.tier.unpin(entry.loading, now, loaded=entry.ready_s <= now)
        entry.loading = []

    # Time

    def _seconds(
        self, decodes: int, context_tokens: int, prefill_tokens: int, pairs: float, segments: int, count: int
    ) -> float:
        """Of `count` equal steps, in each of which every decode's context grows by one token."""
        p = self._cost.profile
        fixed = p.c0 + max(p.floor, p.c_lin * prefill_tokens + p.c_dec * decodes)
        grown = count * context_tokens + decodes * count * (count - 1) / 2
        return count * fixed + p.c_att * pairs + p.c_seg * max(segments - 1, 0) + p.c_kv * grown

    def _stretch(self, decodes: Sequence[Running], context_tokens: int, now: float, until: float) -> int:
        """How many steps nothing but the decodes' own growth happens in: until one ends, or needs a block."""
        size = self._cost.block_size
        most = min(
            min(entry.call.output_tokens - entry.done, len(entry.blocks) * size - entry.tokens + 1) for entry in decodes
        )
        if self.waiting:
            most = min(most, MAX_STRETCH)
        low, high = 1, max(most, 1)
        while low < high:  # the most steps of which all but the last end before `until`
            middle = (low + high + 1) // 2
            if now + self._seconds(len(decodes), context_tokens, 0, 0.0, 0, middle - 1) < until:
                low = middle
            else:
                high = middle - 1
        return low

    def _sample(self, decodes: Sequence[Running], count: int, now: float) -> list[Running]:
        """Every call with its prompt complete has new tokens; returns those that are finished."""
        for entry in decodes:
            entry.done += count
        for entry in self._complete:
            entry.done += 1
            if entry.first_token_s is None:
                entry.first_token_s = now
        finished = [e for e in self.running if not e.gaps and e.done >= e.call.output_tokens]
        for entry in finished:
            self._finish(entry, now)
        return finished

    def _finish(self, entry: Running, now: float) -> None:
        entry.finished_s = now
        call = entry.call
        # The last token is sampled but never computed.
        full = (entry.tokens - 1) // self._cost.block_size
        self.residency.observe(TurnFinished(call.id, call.keys[:full], call.stop, call.tool, call.last), now)
        self._give_back(entry, full, now)
        self.running.remove(entry)

    def check(self) -> None:
        """Recount; raise `CheckFailed` with the equation that does not hold."""
        self.pool.check()
        held = {block for entry in self.running for block in entry.blocks.values()}
        if self.pool.free_blocks + len(held) != self.pool.capacity_blocks:
            raise CheckFailed(f"{self.pool.free_blocks} free + {len(held)} held blocks != {self.pool.capacity_blocks}")
        if any(entry.blocks for entry in self.waiting):
            raise CheckFailed("a waiting call holds blocks")
        if idle := self.pool.idle(self._arriving):
            raise CheckFailed(f"{idle} blocks are being loaded for nobody")
        if any(entry.loading for entry in self.waiting):
            raise CheckFailed("a waiting call has blocks of the tier loaded")


def _gaps(hits: dict[int, Block], tokens: int, size: int) -> list[tuple[int, int]]:
    """The token ranges [p, e) of the first `tokens` tokens that are not resident; the last one ends with them."""
    gaps = []
    start = 0
    for index in sorted(hits):
        if index * size > start:
            gaps.append((start, index * size))
        start = (index + 1) * size
    return [*gaps, (start, tokens)]


def _frontier(gaps: Sequence[tuple[int, int]], tokens: int) -> int:
    """How far a call reaches once so many tokens of its gaps are computed."""
    for start, end in gaps:
        if tokens <= end - start:
            return start + tokens
        tokens -= end - start
    return gaps[-1][1]


def _spend(gaps: deque[tuple[int, int]], tokens: int) -> list[tuple[int, int]]:
    """Take so many tokens off the front of the gaps; returns the ranges."""
    taken = []
    while tokens and gaps:
        start, end = gaps.popleft()
        if end - start > tokens:
            gaps.appendleft((start + tokens, end))
            end = start + tokens
        taken.append((start, end))
        tokens -= end - start
    return taken
