"""Leases whose length pays by the pauses that were seen after a tool, `ttl+X` (arXiv 2511.02230)."""

from collections import deque
from collections.abc import Callable, Iterable

from agentcache.cost import CostModel
from agentcache.errors import ConfigError
from agentcache.model import (
    Context,
    ContextChanged,
    Event,
    Standing,
    TurnAborted,
    TurnArrived,
    TurnFinished,
    TurnScheduled,
)
from agentcache.policy.base import Policy
from agentcache.policy.leased import Leased, LeaseRule

LEARNT = -1.0
SAMPLES = 256  # pauses remembered a tool
FEWEST = 10  # with fewer of a tool, all tools together speak
TOOLS = 64  # told apart; those after them are one
COLD_S = 2.0  # before anything is known


class PayingTtl(LeaseRule):
    """A context gets a lease when its turn asks for a tool, and keeps it until its next turn comes.

    Its length is `tau_s` seconds (0 is never), or where that is -1 the tau that pays most by what pauses after that
    tool were seen,

        argmax over {0} and the pauses seen of  P(pause <= tau) (queueing + rebuild seconds) - tau

    with the mean queueing time of turns and the rebuild of the whole context. When a lease begins, leases hold at most
    `share` of the pool: beyond, the context that came last loses its own.
    """

    name = "ttl"

    def __init__(self, cost: CostModel, capacity_blocks: int, tau_s: float, share: float) -> None:
        if not (tau_s >= 0 or tau_s == LEARNT) or not 0 < share <= 1:
            raise ConfigError(
                f"policy {self.name!r}: tau_s is {tau_s} and share {share}, expected seconds >= 0 (or -1, learnt) "
                "and a share above 0 and at most 1; nothing was started"
            )
        self._cost = cost
        self._tau_s = tau_s
        self._share_blocks = share * capacity_blocks
        self._left: dict[Context, tuple[str, float]] = {}  # paused contexts: the tool that runs, and since when
        self._pauses: dict[str, deque[float]] = {}
        self._queued: dict[str, float] = {}
        self._waits: deque[float] = deque(maxlen=SAMPLES)

    def reprice(self, cost: CostModel) -> None:
        """Blocks cost something else from now on."""
        self._cost = cost

    def observe(self, event: Event, now: float, layer: Leased) -> None:
        match event:
            case TurnArrived(turn):
                self._queued[turn] = now
            case TurnScheduled(turn) if turn in self._queued:
                self._waits.append(now - self._queued.pop(turn))
            case TurnAborted(turn) | TurnFinished(turn):  # some hosts do not say that turns are scheduled
                self._queued.pop(turn, None)
            case ContextChanged(context, gone):
                if left := self._left.pop(context, None):
                    tool, since = left
                    if context.turns:
                        self._pauses.setdefault(self._told_apart(tool), deque(maxlen=SAMPLES)).append(now - since)
                layer.end(context, now)
                if not gone and not context.turns and context.standing is Standing.TOOL:
                    self._lease(context, now, layer)

    def _lease(self, context: Context, now: float, layer: Leased) -> None:
        tool = self._told_apart(context.tool or context.standing.value)
        self._left[context] = (tool, now)
        seconds = self._tau_s if self._tau_s != LEARNT else self._best(tool, context)
        if seconds > 0:
            layer.grant(context, now + seconds)
            layer.fit(self._share_blocks, now, spared=1)

    def _told_apart(self, tool: str) -> str:
        """Clients name tools as they like: those beyond the first `TOOLS` are one."""
        return tool if tool in self._pauses or len(self._pauses) < TOOLS else "other"

    def _best(self, tool: str, context: Context) -> float:
        pauses: Iterable[float] = self._pauses.get(tool, ())
        if len(self._pauses.get(tool, ())) < FEWEST:
            pauses = [pause for seen in self._pauses.values() for pause in seen]
        ordered = sorted(pauses)
        if len(ordered) < FEWEST:
            return COLD_S
        queueing_s = sum(self._waits) / len(self._waits) if self._waits else 0.0
        worth_s = queueing_s + self._cost.run_seconds(0, len(context.chain))
        best_s, most = 0.0, 0.0
        for rank, tau_s in enumerate(ordered, 1):
            gain = rank / len(ordered) * worth_s - tau_s
            if gain > most:
                best_s, most = tau_s, gain
        return best_s


class Ttl(Leased):
    """Under pressure leased blocks go after all others, in the order of a second copy of the inner policy."""

    def __init__(
        self,
        cost: CostModel,
        capacity_blocks: int,
        inner: Callable[[], Policy],
        *,
        tau_s: float = LEARNT,
        share: float = 0.5,
    ) -> None:
        super().__init__(PayingTtl(cost, capacity_blocks, tau_s, share), inner(), inner())
