"""The engine's link to the residency service: batched deltas out, commands and parameters in, all in the background.

Three parties touch it. The *scheduler's thread* appends what changed to bounded queues (`hear`) and carries out what
came in between two steps (`poll`): a few list operations, whatever the service does. The *link's thread* turns
marks into summaries and exchanges one report at a time, so a slow service is asked less often and what does not fit the
queues is dropped, oldest first, and counted. The *courier*, a process, talks to Ray. If any of them but the first is
away the engine goes on with what it knows.
"""

import os
import socket
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import uuid4

from msgspec.structs import replace

from agentcache.api.messages import (
    MAX_ID_BYTES,
    Command,
    ContextState,
    Done,
    OtherSchema,
    Parameters,
    Pause,
    Reply,
    Report,
    Retain,
    Run,
    decode,
    encode,
)
from agentcache.cost import CostProfile
from agentcache.cost.loads import missing_runs
from agentcache.errors import AgentCacheError
from agentcache.model import BlocksEvicted, Context, Event, TurnAborted, TurnArrived, TurnFinished
from agentcache.vllm_plugin.compat import init_logger, make_block_hash_with_group_id
from agentcache.vllm_plugin.host import Host
from agentcache.vllm_plugin.link.commands import Orders
from agentcache.vllm_plugin.link.courier import Carrier, LinkDown

logger = init_logger(__name__)

MARKS = 8192
SUMMARIES = 4096
PAUSES = 512
COMMANDS = 1024
BACK_OFF_S = 4.0
DEFER_S = 1.0


class Link:
    """Keeps a service up to date about an engine, and the engine about the service's wishes.

    `start` begins to exchange; `close` ends it. `groups`: the pool's KV groups, first the one with a block a key.
    """

    def __init__(
        self,
        host: Host,
        pool: Any,
        carrier: Carrier,
        profile: CostProfile,
        block_size: int,
        engine: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        groups: Sequence[int] = (0,),
    ) -> None:
        self.engine = engine or f"{socket.gethostname()}:{os.getpid()}"
        self.epoch = uuid4().hex[:12]
        self.service, self.incarnation = "", 0.0
        self.up = False
        self.dropped = self.failures = self.conflicts = 0
        self._host, self._pool, self._carrier, self._clock = host, pool, carrier, clock
        self._profile, self._block_size = profile, block_size
        self._orders = Orders(host, pool, block_size, groups)
        self._group = groups[0]
        # Written by the scheduler's thread, emptied by the link's; appending to a deque is atomic.
        self._marks: deque[str] = deque(maxlen=MARKS)
        self._pauses: deque[Pause] = deque(maxlen=PAUSES)
        self._done: deque[Done] = deque(maxlen=COMMANDS)
        # The other way round.
        self._commands: deque[tuple[str, Command, float]] = deque(maxlen=COMMANDS)  # from whom, and since when
        self._parameters: deque[Parameters] = deque(maxlen=16)
        self._news = True
        # The scheduler's own.
        self._turns: dict[str, str] = {}
        # The link's own.
        self._pending: OrderedDict[str, None] = OrderedDict()
        self._announced: set[str] = set()
        self._unanswered: dict[int, float] = {}  # commands, since when
        self._seq = 0
        self._full, self._reset = True, False
        self._period_s, self._most = Parameters().period_s, Parameters().max_contexts
        self._heard_at = clock()
        self._down_for = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agentcache-link", daemon=True)

    def start(self) -> None:
        self._host.listeners.append(self.hear)
        self._thread.start()

    def close(self) -> None:
        """Stop exchanging; what was not told is not told any more."""
        self._stopped.set()
        self._carrier.close()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def reset(self) -> None:
        """All blocks have lost their content: tell everything anew."""
        self._reset = True

    # The scheduler's thread

    def hear(self, event: Event, now: float) -> None:
        """Mark the contexts that an event changes."""
        with self._host.spare("link"):
            self._hear(event)

    def _hear(self, event: Event) -> None:
        match event:
            case TurnArrived(turn):
                if receipt := self._host.receipts.open.get(turn):
                    self._turns[turn] = receipt.context
                    self._mark(receipt.context)
                    context = self._host.residency.contexts.get(receipt.context)
                    if receipt.pause_s is not None and context:
                        self._pauses.append(
                            Pause(context.standing.value, context.tool, context.depth, max(receipt.pause_s, 0.0))
                        )
            case TurnFinished(turn) | TurnAborted(turn):
                if (name := self._turns.pop(turn, None)) is not None:
                    self._mark(name)
            case BlocksEvicted(keys):
                owned, before = self._host.residency.contexts.owned, None
                for key in keys:
                    owners = owned.get(key)
                    if owners is not before:
                        before = owners
                        for owner in owners or ():
                            self._mark(owner.id)

    def _mark(self, context: str) -> None:
        self.dropped += len(self._marks) == MARKS
        self._marks.append(context)

    def poll(self) -> None:
        """Between two steps: carry out what came in."""
        if self._news:
            self._news = False
            with self._host.spare("link"):
                self._poll()

    def _poll(self) -> None:
        meter = self._host.meter
        meter.set("agentcache_service_up", int(self.up))
        meter.set("agentcache_service_staleness_seconds", self._clock() - self._heard_at)
        meter.set("agentcache_service_sync_failures_total", self.failures)
        meter.set("agentcache_service_dropped_summaries_total", self.dropped)
        while self._parameters:
            self._orders.learn(self._parameters.popleft())
        while self._commands:
            service, command, since = self._commands.popleft()
            if service != self.service:  # its place has been taken
                continue
            if isinstance(command, Retain):
                command = replace(command, ttl_s=max(command.ttl_s - (self._clock() - since), 0.0))
            try:
                done = self._orders.carry_out(command)
            except Exception:  # a wish of the service's must never be the engine's end
                if self._host.spare.broken:
                    raise
                logger.exception("AgentCache: a command of the residency service failed: %s", command)
                done = Done(command.id, "rejected", detail="it failed")
            kind = type(command).__name__.lower()
            meter.count("agentcache_hints_total", "service", kind, done.outcome)
            self._done.append(done)
            if name := getattr(command, "context", None):
                self._mark(name)
            for context in self._host.residency.contexts.of_job(getattr(command, "job", "")):
                self._mark(context.id)

    # The link's thread

    def _run(self) -> None:
        wait_s = 0.0
        while not self._stopped.wait(wait_s):
            try:
                self.exchange()
            except (LinkDown, AgentCacheError) as error:
                self._failed(error)
                wait_s = min(max(2 * wait_s, self._period_s), BACK_OFF_S)
            except Exception as error:  # whatever it is, it must not be the engine's end
                logger.exception("AgentCache: the link to the residency service stumbled")
                self._failed(error)
                wait_s = BACK_OFF_S
            else:
                wait_s = 0.0 if self._pending and self._period_s <= 1 else self._period_s

    def exchange(self) -> None:
        """Send one report and take its reply in. Raises `LinkDown` or `InputError`, and the next report is full."""
        full, self._full, self._reset = self._full or self._reset, True, False  # until it is known to have gone well
        report = self._report(full)
        reply = decode(self._carrier.carry(encode(report)), Reply)
        self._full = reply.resync
        self._take(reply)

    def _report(self, full: bool) -> Report:
        self._seq += 1
        self._gather(full)
        contexts: list[ContextState] = []
        while self._pending and len(contexts) < self._most:
            name, _ = self._pending.popitem(last=False)
            if state := self._state(name):
                contexts.append(state)
            time.sleep(0)  # a long chain takes a while to look through: let the scheduler pass
        if full:
            self._announced.clear()
        self._announced.update(state.id for state in contexts if state.state != "gone")
        self._announced.difference_update(state.id for state in contexts if state.state == "gone")
        queue = self._pool.free_block_queue
        return Report(
            engine=self.engine,
            epoch=self.epoch,
            seq=self._seq,
            full=full,
            capacity_tokens=self._host.residency.capacity_blocks * self._block_size,
            free_tokens=queue.num_useless_blocks * self._block_size,
            c_lin=self._profile.c_lin,
            c_att=self._profile.c_att,
            load_s=self._host.load_price.block_s / self._block_size if self._host.load_price else 0.0,
            dropped=self.dropped,
            contexts=tuple(contexts),
            pauses=tuple(_drained(self._pauses)),
            done=tuple(self._answers()),
        )

    def _answers(self) -> Iterator[Done]:
        """What became of commands; an engine without work makes no steps, so that they wait for its next one."""
        for done in _drained(self._done):
            self._unanswered.pop(done.command, None)
            yield done
        now = self._clock()
        for command in [command for command, since in self._unanswered.items() if now - since > DEFER_S]:
            del self._unanswered[command]
            yield Done(command, "deferred", detail="no step since")

    def _gather(self, full: bool) -> None:
        """Bring the contexts to tell of up to date: those that were marked or forgotten, or all, latest first."""
        for name in _drained(self._marks):
            self._pending[name] = None
        if full:
            everyone = sorted(self._everyone(), key=lambda context: (not context.turns, -context.idle_since))
            self._pending = OrderedDict.fromkeys(context.id for context in everyone)
        else:
            book = self._host.residency.contexts
            for name in [name for name in self._announced if book.get(name) is None]:
                self._pending[name] = None
        while len(self._pending) > SUMMARIES:
            self._pending.popitem(last=False)
            self.dropped += 1

    def _everyone(self) -> list[Context]:
        """The contexts of the book, which the scheduler may be changing: then once more."""
        for _ in range(100):
            try:
                return list(self._host.residency.contexts)
            except RuntimeError:
                time.sleep(0.001)
        raise LinkDown("the book of contexts never held still")

    def _state(self, name: str) -> ContextState | None:
        context = self._host.residency.contexts.get(name)
        if context is None:
            return ContextState(name, name, "gone") if name in self._announced else None
        if max(len(context.id), len(context.job)) > 2 * MAX_ID_BYTES:
            return None  # its tenant's name is longer than the service takes
        chain, running = context.chain, bool(context.turns)
        return ContextState(
            context.id,
            context.job,
            "running" if running else "idle",
            context.standing.value,
            context.tool,
            context.depth,
            len(chain) * self._block_size,
            tuple(self._runs(chain, self._is_resident)),
            0.0 if running else max(self._clock() - context.idle_since, 0.0),
            tuple(self._runs(chain, self._is_below)) if self._host.residency.tier else (),
        )

    def _is_resident(self, key: Any) -> bool:
        get = self._pool.cached_block_hash_to_block.get_one_block
        return get(make_block_hash_with_group_id(key, self._group)) is not None

    def _is_below(self, key: Any) -> bool:
        tier = self._host.residency.tier
        return tier is not None and key in tier and not self._is_resident(key)

    def _runs(self, chain: tuple[Any, ...], has: Callable[[Any], bool]) -> Iterator[Run]:
        """The blocks of a chain that are there as runs of tokens; they may be a step old by the time it is told."""
        size = self._block_size
        runs = missing_runs(enumerate(map(has, chain)))
        return ((start * size, end * size) for start, end, is_there in runs if is_there)

    def _take(self, reply: Reply) -> None:
        if reply.service != self.service:
            if self.service and reply.incarnation < self.incarnation:
                self.conflicts += 1
                if self.conflicts == 1:
                    logger.warning(
                        "AgentCache: two residency services answer; %s is obeyed, not the older %s",
                        self.service,
                        reply.service,
                    )
                self._full = True
                return
            self.service, self.incarnation = reply.service, reply.incarnation
            self._unanswered.clear()
            logger.info("AgentCache: joined the residency service %s as %s", self.service, self.engine)
        elif not self.up:
            logger.info("AgentCache: the residency service %s answers again", self.service)
        self.up, self._down_for = True, ""
        self._heard_at = self._clock()
        self._period_s = min(max(reply.parameters.period_s, 0.01), 60.0)
        self._most = max(reply.parameters.max_contexts, 1)
        if reply.parameters.pauses:
            self._parameters.append(reply.parameters)
        self._commands.extend((reply.service, command, self._heard_at) for command in reply.commands)
        self._unanswered.update((command.id, self._heard_at) for command in reply.commands)
        self._news = True

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        kind = "schema" if isinstance(error, OtherSchema) else "down"
        if self._down_for != kind and not self._stopped.is_set():
            logger.warning("AgentCache: no residency service; this engine goes on without it (%s)", error)
        self.up, self._down_for = False, kind
        self._news = True


def _drained(queue: deque[Any]) -> Iterator[Any]:
    while queue:
        yield queue.popleft()
