"""What the cluster holds for one tenant, as pages in the same `Residency` class that engines run.

Engines tell runs of tokens, not blocks. Here a context is a chain of *pages* of `page_tokens` tokens, a page that any
of a copy's runs touches is resident in that copy, and copies in several engines are several blocks with one key, as
they would be within an engine. So the engines' own policies and prices order what the whole cluster could do without.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field

from agentcache.api.messages import ContextState, Run
from agentcache.errors import CheckFailed
from agentcache.model import Block, JobFinished, Key, Standing, Stop, TurnAborted, TurnArrived, TurnFinished
from agentcache.policy.base import Policy
from agentcache.policy.survival import Survival
from agentcache.residency import Residency

MAX_PAGES = 1 << 14
"""Of one context: what lies behind is not told apart from the last page."""

_STOPS = {"tool": Stop.TOOL_USE, "end_turn": Stop.END_TURN}


@dataclass(slots=True, eq=False)
class Record:
    """One context in the cluster. `number` names it in keys, `home` is the engine of its latest turn."""

    number: int
    id: str
    job: str
    standing: str = "unknown"
    tool: str | None = None
    depth: int = 0
    tokens: int = 0
    idle_since: float = 0.0
    home: str | None = None
    copies: "dict[str, Held]" = field(default_factory=dict)

    @property
    def resident_tokens(self) -> int:
        return sum(copy.tokens for copy in self.copies.values())

    @property
    def running(self) -> bool:
        return any(copy.running for copy in self.copies.values())


@dataclass(slots=True, eq=False)
class Held:
    """What one engine holds of a context; `local_id` and `local_job` are that engine's names of it and of its job.

    `depth` counts the context's turns that have ended there, `length` its tokens, resident or not; `below`: what its
    host memory alone has, which no budget counts.
    """

    engine: str
    record: Record
    local_id: str
    local_job: str
    depth: int = 0
    length: int = 0
    running: bool = False
    runs: tuple[Run, ...] = ()
    below: tuple[Run, ...] = ()
    pages: dict[int, Block] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return sum(end - start for start, end in self.runs)

    @property
    def turn(self) -> str:
        return f"{self.engine}|{self.record.number}"


class Holdings:
    """A tenant's copies, evictable ones in the order of the policy. All times are seconds on the service's clock."""

    def __init__(self, policy: Policy, survival: Survival, max_pages: int, max_contexts: int, page_tokens: int) -> None:
        # The directory keeps both bounds over all tenants: the residency's own never bite.
        self.residency = Residency(policy, max_pages, max_contexts + 1)
        self.residency.survival = survival  # pauses are learnt from by all tenants together
        if hasattr(policy, "follow"):
            policy.follow(survival)
        self.page_tokens = page_tokens
        self.pages = 0
        self._copies: set[Held] = set()
        self._blocks = 0  # ids of blocks so far
        self._free: list[int] = []  # and those of them that can be used again

    def __iter__(self) -> Iterator[Held]:
        return iter(self._copies)

    # Copies come, change and go

    def show(self, copy: Held, state: ContextState, now: float) -> None:
        """A copy stands so now. Its first appearance may be that of a context that has been idle for a while."""
        record, keys = copy.record, self._keys(copy.record, state.tokens)
        running = state.state == "running"
        fresh = copy not in self._copies
        self._copies.add(copy)
        if running and (fresh or not copy.running):
            self._arrive(copy, keys, now)
        elif not running and (fresh or copy.running):
            if fresh:
                self._arrive(copy, keys, now)
                if context := self.residency.contexts.get(record.id):
                    context.depth = max(state.depth - 1, 0)
            last = True if state.standing == "ended" else None
            stop = _STOPS.get(state.standing, Stop.UNKNOWN)
            self.residency.observe(TurnFinished(copy.turn, keys, stop, state.tool, last), now)
            context = self.residency.contexts.get(record.id)
            if fresh and state.idle_s and context and context.standing is not Standing.ENDED and not context.turns:
                self.residency.survival.paused(context, now - state.idle_s)
        self._place(copy, state.runs, running, now - state.idle_s if fresh else now, now)
        copy.depth, copy.length, copy.below = state.depth, state.tokens, state.below

    def drop(self, copy: Held, now: float) -> None:
        """A copy is gone, and with the last one what is known of the context."""
        if copy not in self._copies:
            return
        if copy.running:
            self.residency.observe(TurnAborted(copy.turn), now)
        self._place(copy, (), copy.running, now, now)
        self._copies.discard(copy)
        copy.running = False

    def end(self, record: Record, now: float) -> None:
        """A context is not expected back; it goes first, or, if it has no copies any more, is forgotten."""
        if self.residency.contexts.get(record.id):
            self.residency.observe(JobFinished(record.id), now)

    def clear(self, copy: Held, now: float) -> None:
        """Take an idle copy as evicted."""
        self._place(copy, (), copy.running, now, now)

    def evict(
        self, need_tokens: int, excluded: Set[Block], records: Mapping[int, Record], now: float
    ) -> list[tuple[Held, int, int, int]]:
        """Take out what the policy finds cheapest, `need_tokens` or a little more if there is so much, as evicted.

        Returns token ranges [start, end) of copies, and how many tokens were resident there.
        """
        taken: dict[Held, dict[int, int]] = {}
        while need_tokens > 0:
            pages = min(-(-need_tokens // self.page_tokens), len(self.residency) - len(excluded))
            if pages <= 0 or not (victims := self.residency.victims(pages, now, excluded)):
                break
            for block in victims:  # a page may be in several copies: this is one of them
                copies = records[block.key >> _SHIFT].copies.values()  # type: ignore[operator]
                copy = next(copy for copy in copies if copy.pages.get(block.index) is block)
                del copy.pages[block.index]
                self._free.append(block.id)
                self.pages -= 1
                tokens = taken.setdefault(copy, {})[block.index] = self._cut(copy, block.index)
                need_tokens -= tokens
        return [(copy, *run) for copy, tokens in taken.items() for run in self._runs_of(tokens)]

    def _cut(self, copy: Held, page: int) -> int:
        low, high = self._span(page, page)
        before = copy.tokens
        pieces = (piece for run in copy.runs for piece in ((run[0], min(run[1], low)), (max(run[0], high), run[1])))
        copy.runs = tuple((start, end) for start, end in pieces if start < end)
        return before - copy.tokens

    def _span(self, first: int, last: int) -> Run:
        return first * self.page_tokens, (last + 1) * self.page_tokens if last < MAX_PAGES - 1 else _END

    def _runs_of(self, tokens: dict[int, int]) -> Iterator[tuple[int, int, int]]:
        """Neighbouring pages as one range."""
        for first in sorted(page for page in tokens if page - 1 not in tokens):
            last = first
            while last + 1 in tokens:
                last += 1
            yield (*self._span(first, last), sum(tokens[page] for page in range(first, last + 1)))

    def blocks(self, records: Iterable[Record]) -> set[Block]:
        """The evictable pages of these contexts."""
        return {
            block
            for record in records
            for copy in record.copies.values()
            if not copy.running
            for block in copy.pages.values()
        }

    def _keys(self, record: Record, tokens: int) -> tuple[Key, ...]:
        first = record.number << _SHIFT
        return tuple(range(first, first + min(-(-tokens // self.page_tokens), MAX_PAGES)))

    def _arrive(self, copy: Held, keys: tuple[Key, ...], now: float) -> None:
        # Every context is a job of its own here: it is forgotten alone.
        self.residency.observe(TurnArrived(copy.turn, keys, copy.record.id, copy.record.id), now)

    def _place(self, copy: Held, runs: tuple[Run, ...], running: bool, released_at: float, now: float) -> None:
        wanted = {
            page
            for start, end in runs
            for page in range(
                min(start // self.page_tokens, MAX_PAGES - 1), min(-(-end // self.page_tokens), MAX_PAGES)
            )
        }
        gone = [copy.pages.pop(page) for page in list(copy.pages) if page not in wanted]
        kept = list(copy.pages.values())
        added = {page: self._block(copy, page) for page in sorted(wanted - copy.pages.keys(), reverse=True)}
        copy.pages.update(added)
        if copy.running and gone:  # what vanishes in use is given back first: else what is left of it stays for ever
            self.residency.release(gone, released_at)
        self.residency.forget(gone)
        if running and not copy.running:
            self.residency.acquire(kept, now)
        if not running:
            back = list(added.values()) if not copy.running else sorted(copy.pages.values(), key=_tail_first)
            if back:
                self.residency.release(back, released_at)
        self.pages += len(added) - len(gone)
        self._free += [block.id for block in gone]
        copy.running, copy.runs = running, runs

    def _block(self, copy: Held, page: int) -> Block:
        if not self._free:
            self._free.append(self._blocks)
            self._blocks += 1
        return Block(self._free.pop(), (copy.record.number << _SHIFT) + page, page)

    def check(self) -> None:
        """Recount; raise `CheckFailed` with the equation that does not hold."""
        self.residency.check()
        pages = sum(len(copy.pages) for copy in self._copies)
        if pages != self.pages:
            raise CheckFailed(f"copies hold {pages} pages, {self.pages} are counted")
        if len({block.id for copy in self._copies for block in copy.pages.values()} | {*self._free}) != self._blocks:
            raise CheckFailed(f"{pages} pages and {len(self._free)} free ids are not {self._blocks}")
        idle = sum(len(copy.pages) for copy in self._copies if not copy.running)
        if idle != len(self.residency):
            raise CheckFailed(f"idle copies hold {idle} pages, {len(self.residency)} are evictable")
        for copy in self._copies:
            if copy.record.copies.get(copy.engine) is not copy:
                raise CheckFailed(f"the copy of {copy.record.id} in {copy.engine} is not the one of its record")


_SHIFT = 14
_END = 1 << 62


def _tail_first(block: Block) -> int:
    return -block.index
