"""What a rebuild costs: profiles, an estimate without one, and the model that prices blocks and steps."""

from agentcache.cost.model import CostModel
from agentcache.cost.prior import ModelShape, flop_prior, prior_of
from agentcache.cost.profile import CostProfile

__all__ = ["CostModel", "CostProfile", "ModelShape", "flop_prior", "prior_of"]
