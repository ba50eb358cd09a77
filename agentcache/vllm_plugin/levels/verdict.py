"""The level of an engine: the highest that all rules leave, or what was asked for."""

from agentcache.errors import Unsupported
from agentcache.vllm_plugin.config import EngineOptions
from agentcache.vllm_plugin.levels.rule import Level, Setup, Verdict
from agentcache.vllm_plugin.levels.rules import RULES


def verdict(setup: Setup, early: bool = False) -> Verdict:
    """The highest level that can be had; `early`: by the rules that need no KV groups."""
    lowest = Verdict(Level.HOLES)
    for rule in RULES:
        if rule.leaves < lowest.level and (rule.early or not early) and (value := rule.value(setup)):
            lowest = Verdict(rule.leaves, rule, value)
    return lowest


def choose(found: Verdict, options: EngineOptions) -> Level | None:
    """The level to run at, for these options; None leaves the engine to vLLM, as was asked for.

    Raises `Unsupported` for a level that cannot be had, and for anything but reuse behind holes where nothing else is
    wanted.
    """
    wanted = Level[options.level.upper()] if options.level else None
    if wanted is None and options.on_unsupported == "lower":
        return found.level
    if found.level >= (wanted or Level.HOLES):
        return wanted or found.level
    if options.on_unsupported == "stock":
        return None
    assert found.rule
    raise Unsupported(
        f"level {wanted or Level.HOLES} cannot be had here, {found.level} can: {found.why}; not started",
        hint=f"{found.rule.hint}, or leave {'level' if wanted else 'on_unsupported'} out to run at the highest level",
    )
