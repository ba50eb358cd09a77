"""The words of the product as types: block, context, span, events, decisions. Standard library only."""

from agentcache.model.block import Block, Key
from agentcache.model.context import Context, Span, shared, spans
from agentcache.model.decisions import Chunk, Decision, Evict, Hold, Join, Release, Retain
from agentcache.model.events import (
    BlocksEvicted,
    BlocksRestood,
    BlocksStored,
    ContextChanged,
    Event,
    JobFinished,
    JobStarted,
    PoolResized,
    RetainAsked,
    StepTimed,
    Stop,
    ToolFinished,
    ToolStarted,
    TurnAborted,
    TurnArrived,
    TurnFinished,
    TurnPreempted,
    TurnScheduled,
)
from agentcache.model.owners import NOBODY, Owners
from agentcache.model.standing import LIVELIEST, Standing
from agentcache.model.tally import Tally

__all__ = [
    "LIVELIEST",
    "NOBODY",
    "Block",
    "BlocksEvicted",
    "BlocksRestood",
    "BlocksStored",
    "Chunk",
    "Context",
    "ContextChanged",
    "Decision",
    "Event",
    "Evict",
    "Hold",
    "JobFinished",
    "JobStarted",
    "Join",
    "Key",
    "Owners",
    "PoolResized",
    "Release",
    "Retain",
    "RetainAsked",
    "Span",
    "Standing",
    "StepTimed",
    "Stop",
    "Tally",
    "ToolFinished",
    "ToolStarted",
    "TurnAborted",
    "TurnArrived",
    "TurnFinished",
    "TurnPreempted",
    "TurnScheduled",
    "shared",
    "spans",
]
