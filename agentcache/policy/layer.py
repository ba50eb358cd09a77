"""What retention layers share: they are what is behind them, and hand on whatever they are told or asked."""

from collections.abc import Mapping, Sequence
from typing import Any

from agentcache.cost import CostModel
from agentcache.model import Context
from agentcache.policy.base import FollowsPrices, FollowsSurvival, Foresees, Policy, Retains, Reuse
from agentcache.policy.survival import Survival

_HANDED_ON = ("guard", "conflicts")
"""What only some policies have, and hosts show."""


class Layer:
    """Stands in front of a policy, or of several copies of one, of which the first speaks for all.

    A layer's own `name` and `needs` stand on its class; an instance has those of what is behind it too, as in a spec.
    """

    name: str
    reuse: Reuse
    needs: frozenset[str] = frozenset()

    def __init__(self, *behind: Policy) -> None:
        self._behind = behind
        self._retentions = 0  # that began or ended
        self.name = f"{self.name}+{behind[0].name}"
        self.reuse = behind[0].reuse
        self.needs = self.needs | behind[0].needs

    def __getattr__(self, name: str) -> Any:
        if name not in _HANDED_ON:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self._behind[0], name)

    def follow(self, survival: Survival) -> None:
        """Use these estimates from now on."""
        for policy in self._behind:
            if isinstance(policy, FollowsSurvival):
                policy.follow(survival)

    def reprice(self, cost: CostModel) -> None:
        """Blocks cost something else from now on."""
        for policy in self._behind:
            if isinstance(policy, FollowsPrices):
                policy.reprice(cost)

    def foresee(self, need: str, known: Mapping[Any, Sequence[Any]]) -> None:
        """Tell what is behind what it needs to know, if it does."""
        for policy in self._behind:
            if isinstance(policy, Foresees):
                policy.foresee(need, known)

    def retains(self, context: Context) -> bool:
        """Whether a layer behind this one keeps the context."""
        return any(isinstance(policy, Retains) and policy.retains(context) for policy in self._behind)

    def retained_version(self) -> int:
        """Another number whenever `retains` may answer otherwise."""
        behind = [policy.retained_version() for policy in self._behind if isinstance(policy, Retains)]
        return self._retentions + sum(behind)
