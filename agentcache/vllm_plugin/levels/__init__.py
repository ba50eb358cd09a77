"""How much of AgentCache an engine gets: the highest level that its configuration and its model are shown to bear.

What is not shown exact runs at a lower level; nothing but a wish (`level`, `on_unsupported`) keeps an engine from
starting.
"""

from agentcache.vllm_plugin.levels.requests import REQUEST_REASONS, stock_only
from agentcache.vllm_plugin.levels.rule import Level, Rule, Setup, Verdict
from agentcache.vllm_plugin.levels.rules import RULES
from agentcache.vllm_plugin.levels.verdict import choose, verdict
from agentcache.vllm_plugin.levels.workers import check_backends, why_not_fused

__all__ = [
    "REQUEST_REASONS",
    "RULES",
    "Level",
    "Rule",
    "Setup",
    "Verdict",
    "check_backends",
    "choose",
    "stock_only",
    "verdict",
    "why_not_fused",
]
