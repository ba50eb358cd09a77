"""The layers by name: `continuum+X` is the paper's rule over policy X, the others are its baselines."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentcache.cost import CostModel
from agentcache.errors import ConfigError
from agentcache.model import Context
from agentcache.policy import Policy
from agentcache_continuum.leases import Leases
from agentcache_continuum.rules import Always, Fixed, Oracle, PaperOptions, PaperV6, Preview, Rule

Inner = Callable[[], Policy]


class Continuum(Leases):
    """`paper-v6`. `cold_s` -1 is the analytic cold start; the other options are those of `PaperOptions`."""

    name = "continuum"

    def __init__(
        self,
        cost: CostModel,
        capacity_blocks: int,
        inner: Inner,
        *,
        k: float = 100,
        cold_s: float = -1.0,
        waits: float = 100,
        programs: float = 256,
        count_last: bool = False,
        first_eta: float = 1.0,
        share: float = 1.0,
    ) -> None:
        cold = None if cold_s == -1.0 else cold_s
        options = PaperOptions(int(k), cold, int(waits), int(programs), count_last, first_eta)
        super().__init__(cost, capacity_blocks, inner(), PaperV6(options), share)


class ContinuumNever(Leases):
    """No retention: what is left is the inner policy, and the order of admission."""

    name = "continuum-never"

    def __init__(self, cost: CostModel, capacity_blocks: int, inner: Inner) -> None:
        super().__init__(cost, capacity_blocks, inner(), Rule(), 1.0)


class ContinuumAlways(Leases):
    """Every tool call keeps its context until it returns, or memory is needed."""

    name = "continuum-always"

    def __init__(self, cost: CostModel, capacity_blocks: int, inner: Inner, *, share: float = 1.0) -> None:
        super().__init__(cost, capacity_blocks, inner(), Always(), share)


class ContinuumFixed(Leases):
    """Every tool call keeps its context for `s` seconds."""

    name = "continuum-fixed"

    def __init__(
        self, cost: CostModel, capacity_blocks: int, inner: Inner, *, s: float = 2.0, share: float = 1.0
    ) -> None:
        super().__init__(cost, capacity_blocks, inner(), Fixed(s), share)


class ContinuumPreview(Leases):
    """The rule of the authors' preview: `s` seconds, or 0 for a tool that takes longer on the mean."""

    name = "continuum-preview"

    def __init__(
        self, cost: CostModel, capacity_blocks: int, inner: Inner, *, s: float = 2.0, share: float = 1.0
    ) -> None:
        super().__init__(cost, capacity_blocks, inner(), Preview(s), share)


class ContinuumOracle(Leases):
    """Knows every pause, from `foresee`: keeps a context if the pause costs less than the paper's benefit."""

    name = "continuum-oracle"
    needs = frozenset({"pauses"})

    def __init__(self, cost: CostModel, capacity_blocks: int, inner: Inner, *, share: float = 1.0) -> None:
        super().__init__(cost, capacity_blocks, inner(), Oracle(), share)
        self._foreseen: dict[str, Sequence[float | None]] | None = None

    def foresee(self, need: str, known: Mapping[Any, Sequence[Any]]) -> None:
        """`pauses`: by context id, the seconds from the end of its k-th turn to its next one; None where none follows.

        Whatever is needed behind it is handed on.
        """
        if need == "pauses":
            self._foreseen = dict(known)
        super().foresee(need, known)

    def keep_s(self, context: Context, tool: str, reload_s: float) -> float:
        if self._foreseen is None:
            raise ConfigError(
                f"policy {self.name} was not told the pauses; nothing more was run",
                hint="it runs in the queueing simulation of `agentcache results`, with hints",
            )
        pauses = self._foreseen.get(context.id, ())
        pause_s = pauses[context.depth - 1] if 0 < context.depth <= len(pauses) else None
        return self.rule.keep_s(tool, reload_s, pause_s)
