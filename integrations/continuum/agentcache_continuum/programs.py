"""Continuum's leases: who is away with a tool, told to a rule that says for how long its context is kept."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from agentcache.cost import CostModel
from agentcache.errors import CheckFailed, ConfigError
from agentcache.model import (
    Context,
    ContextChanged,
    Event,
    JobFinished,
    PoolResized,
    RetainAsked,
    Standing,
    ToolStarted,
    TurnAborted,
    TurnArrived,
    TurnFinished,
    TurnScheduled,
)
from agentcache.policy import Policy
from agentcache.policy.leased import Lease, Leased, LeaseRule
from agentcache_continuum.pauses import UNNAMED, Conflicts, Pauses
from agentcache_continuum.rules import Rule


@dataclass(slots=True)
class _Program:
    """A job: its place in the order of arrival, finished turns, and its contexts that are known."""

    place: int
    turns: int = 0
    over: bool = False
    contexts: set[Context] = field(default_factory=set)


@dataclass(slots=True)
class _Turn:
    """An open turn; `lost`: it returned to a context that was no longer kept. Times are seconds."""

    context: Context
    arrived_s: float
    lost: bool
    scheduled: bool = False


class Programs(LeaseRule):
    """Follows programs, their turns and tool calls, and asks a `rule` for the seconds of each lease.

    A context gets a lease when its turn finishes with a tool call, and keeps it until its next turn has its blocks; a
    lease that runs out while that turn waits lasts as long as the wait. Leases hold at most `share` of the pool; when
    memory is needed, or the share is exceeded, the lease of the program that *arrived latest* ends first.
    """

    def __init__(self, name: str, cost: CostModel, capacity_blocks: int, rule: Rule, share: float) -> None:
        if not 0 < share <= 1:
            raise ConfigError(f"policy {name!r}: share is {share}, expected above 0 and at most 1; nothing was started")
        self.name = name
        self.rule = rule
        self.conflicts = Conflicts()
        self._pauses = Pauses(rule, self.conflicts)
        self._cost = cost
        self._share = share
        self.most_blocks = share * capacity_blocks
        self._programs: dict[str, _Program] = {}
        self._turns: dict[str, _Turn] = {}
        self._arriving: Context | None = None
        self._places = 0

    def reprice(self, cost: CostModel) -> None:
        """Blocks cost something else from now on."""
        self._cost = cost

    def keep_s(self, context: Context, tool: str, reload_s: float) -> float:
        """Seconds of the lease of a context whose turn has just called a tool; 0 for none."""
        return self.rule.keep_s(tool, reload_s)

    def rank(self, lease: Lease) -> tuple[float, ...]:
        """The program that arrived latest; of one program's, the lease that would last longest."""
        return lease.priority, -lease.until, -lease.stamp

    def awaited(self, holder: object) -> bool:
        """Whether its own next turn is queued; a branch's turn is another context's."""
        return isinstance(holder, Context) and bool(holder.turns)

    def observe(self, event: Event, now: float, layer: Leased) -> None:
        match event:
            case ContextChanged(context, gone):
                self._changed(context, gone, now, layer)
            case TurnArrived():
                self._arrived(event, now, layer)
            case TurnScheduled():
                self._scheduled(event, now, layer)
            case TurnFinished():
                self._finished(event, now, layer)
            case TurnAborted(turn):
                if gone_turn := self._turns.pop(turn, None):
                    self._close(gone_turn.context, now, layer)
            case JobFinished(job) if job in self._programs:
                self._over(self._programs[job])
            case PoolResized(blocks):
                self.most_blocks = self._share * blocks
            case ToolStarted(expected_s=seconds) | RetainAsked(ttl_s=seconds):
                self.conflicts.negative_duration += seconds is not None and not seconds >= 0

    def _changed(self, context: Context, gone: bool, now: float, layer: Leased) -> None:
        if gone:
            self._close(context, now, layer)
            for name in [name for name, turn in self._turns.items() if turn.context is context]:
                del self._turns[name]
            program = self._programs.get(context.job)
            if program:
                program.contexts.discard(context)
                if not program.contexts:
                    del self._programs[context.job]
        elif context.turns:
            self._arriving = context  # the turn itself is told next
        elif context.standing is Standing.ENDED:
            self._close(context, now, layer)

    def _close(self, context: Context, now: float, layer: Leased) -> None:
        """Nothing is known any more of when the context returns, if it does."""
        self._pauses.forget(context)
        layer.leases.ended += layer.end(context, now)

    def _arrived(self, event: TurnArrived, now: float, layer: Leased) -> None:
        context, self._arriving = self._arriving, None
        if context is None or event.turn not in context.turns or event.turn in self._turns:
            return
        program = self._programs.get(context.job)
        if program is None:
            self._places += 1
            program = self._programs[context.job] = _Program(self._places)
        program.contexts.add(context)
        if program.over:
            program.over = False
            self.conflicts.turn_after_end += 1
        self.conflicts.concurrent_turns += sum(len(branch.turns) for branch in program.contexts) > 1
        until = layer.until(context)
        if until is not None and until <= now and len(context.turns) == 1:  # it ran out before the turn came
            layer.leases.expired += layer.end(context, now)
        away = self._pauses.come_back(context, event.tool, now)
        lost = away and layer.until(context) is None
        self._turns[event.turn] = _Turn(context, now, lost)

    def _scheduled(self, event: TurnScheduled, now: float, layer: Leased) -> None:
        turn = self._turns.get(event.turn)
        if turn is None or turn.scheduled:
            return
        turn.scheduled = True
        if turn.lost:
            self.rule.waited(now - turn.arrived_s)
        if layer.end(turn.context, now):  # its blocks are the turn's now
            layer.leases.taken_up += 1
            layer.leases.wasted += event.cached == 0

    def _finished(self, event: TurnFinished, now: float, layer: Leased) -> None:
        turn = self._turns.pop(event.turn, None)
        if turn is None:
            return
        context = turn.context
        if program := self._programs.get(context.job):
            program.turns += 1
            if context.standing is Standing.ENDED:
                self._over(program)
        # Some clients do not say which tool their output will call, only that it is not the last.
        promised = event.last is False and context.standing is not Standing.ENDED
        if not context.turns and (promised or context.standing is Standing.TOOL):
            tool = event.tool or UNNAMED
            self._pauses.leave(context, tool, now)
            layer.end(context, now)
            self._lease(context, tool, now, layer)

    def _over(self, program: _Program) -> None:
        if not program.over:
            program.over = True
            self.rule.ended(program.turns)

    def _lease(self, context: Context, tool: str, now: float, layer: Leased) -> None:
        seconds = self.keep_s(context, tool, self._cost.run_seconds(0, len(context.chain)))
        if seconds <= 0:
            layer.leases.refused += 1
            return
        until = math.nextafter(now + seconds, math.inf)  # the end itself is inside
        layer.grant(context, until, -self._programs[context.job].place)

    def check(self) -> None:
        if any(turn.context not in self._programs[turn.context.job].contexts for turn in self._turns.values()):
            raise CheckFailed(f"{self.name}: an open turn's context is not its program's")


class ProgramLeases(Leased):
    """The layer under Continuum's leases, and its counters."""

    def __init__(self, programs: Programs, inner: Policy) -> None:
        super().__init__(programs, inner)
        self.rule = programs.rule
        self.conflicts = programs.conflicts

    def _clock(self, now: float) -> float:
        self.conflicts.backward_time += now < self._now
        return super()._clock(now)

    def counts(self) -> Mapping[str, Mapping[str, float]]:
        """All counters, by group and name."""
        return {"conflicts": asdict(self.conflicts), "leases": asdict(self.leases)}
