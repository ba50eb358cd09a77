"""The layers by name: `continuum+X` is the paper's rule over policy X, the others are its baselines."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentcache.cost import CostModel
from agentcache.errors import ConfigError
from agentcache.model import Context
from agentcache.policy import Policy
from agentcache_continuum.programs import ProgramLeases, Programs
from agentcache_continuum.rules import Always, Fixed, Oracle, PaperOptions, PaperV6, Preview, Rule

Inner = Callable[[], Policy]


class Continuum(ProgramLeases):
    """`paper-v6`. `cold_s` -1 is the analytic cold start; the other options are those of `PaperOptions`."""

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
        super().__init__(Programs("continuum", cost, capacity_blocks, PaperV6(options), share), inner())


class ContinuumNever(ProgramLeases):
    """No retention: what is left is the inner policy, and the order of admission."""

    def __init__(self, cost: CostModel, capacity_blocks: int, inner: Inner) -> None:
        super().__init__(Programs("continuum-never", cost, capacity_blocks, Rule(), 1.0), inner())


class ContinuumAlways(ProgramLeases):
    """Every tool call keeps its context until it returns, or memory is needed."""

    def __init__(self, cost: CostModel, capacity_blocks: int, inner: Inner, *, share: float = 1.0) -> None:
        super().__init__(Programs("continuum-always", cost, capacity_blocks, Always(), share), inner())


class ContinuumFixed(ProgramLeases):
    """Every tool call keeps its context for `s` seconds."""

    def __init__(
        self, cost: CostModel, capacity_blocks: int, inner: Inner, *, s: float = 2.0, share: float = 1.0
    ) -> None:
        super().__init__(Programs("continuum-fixed", cost, capacity_blocks, Fixed(s), share), inner())


class ContinuumPreview(ProgramLeases):
    """The rule of the authors' preview: `s` seconds, or 0 for a tool that takes longer on the mean."""

    def __init__(
        self, cost: CostModel, capacity_blocks: int, inner: Inner, *, s: float = 2.0, share: float = 1.0
    ) -> None:
        super().__init__(Programs("continuum-preview", cost, capacity_blocks, Preview(s), share), inner())


class Foreseen(Programs):
    """Knows every pause, from `foresee`: keeps a context if the pause costs less than the paper's benefit."""

    needs = frozenset({"pauses"})
    _foreseen: Mapping[str, Sequence[float | None]] | None = None

    def foresee(self, need: str, known: Mapping[Any, Sequence[Any]]) -> None:
        """`pauses`: by context id, seconds from the end of its k-th turn to its next one; None where none follows."""
        if need == "pauses":
            self._foreseen = dict(known)

    def keep_s(self, context: Context, tool: str, reload_s: float) -> float:
        if self._foreseen is None:
            raise ConfigError(
                f"policy {self.name} was not told the pauses; nothing more was run",
                hint="it runs in the queueing simulation of `agentcache results`, with hints",
            )
        pauses = self._foreseen.get(context.id, ())
        pause_s = pauses[context.depth - 1] if 0 < context.depth <= len(pauses) else None
        return self.rule.keep_s(tool, reload_s, pause_s)


class ContinuumOracle(ProgramLeases):
    """What nobody can know: each pause."""

    def __init__(self, cost: CostModel, capacity_blocks: int, inner: Inner, *, share: float = 1.0) -> None:
        super().__init__(Foreseen("continuum-oracle", cost, capacity_blocks, Oracle(), share), inner())
