"""The words of the product as types: block, context, events, decisions. Standard library only."""

from agentcache.model.block import Block, Key
from agentcache.model.context import Context, shared
from agentcache.model.decisions import Decision, Hold, Join, Release
from agentcache.model.events import (
    BlocksEvicted,
    BlocksStored,
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
from agentcache.model.signals import BlocksRestood, ContextChanged
from agentcache.model.standing import LIVELIEST, OVER, Standing
from agentcache.model.tally import Tally

__all__ = [
    "LIVELIEST",
    "NOBODY",
    "OVER",
    "Block",
    "BlocksEvicted",
    "BlocksRestood",
    "BlocksStored",
    "Context",
    "ContextChanged",
    "Decision",
    "Event",
    "Hold",
    "JobFinished",
    "JobStarted",
    "Join",
    "Key",
    "Owners",
    "PoolResized",
    "Release",
    "RetainAsked",
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
]
