"""Keeps an ingress's whereabouts of contexts true: what engines have told the service, twice a second."""

import asyncio
import logging
import time
from collections import defaultdict

from agentcache.api.messages import Snapshot
from agentcache.service.front.control import Service
from agentcache.service.routing.homes import Homes

logger = logging.getLogger(__name__)

PERIOD_S = 0.5
CONTEXTS = 512
"""The latest, which is where something changes."""
FIRST_CONTEXTS = 8192
"""An ingress that has just started, or has been without the service, knows little else."""


def learn(homes: Homes, snapshot: Snapshot, now: float) -> None:
    """Correct the whereabouts of every session and job that the snapshot shows."""
    held: dict[str, dict[str, int]] = defaultdict(dict)
    for context in snapshot.contexts:
        for copy in context.copies:
            for name in {context.id, context.job}:
                held[name][copy.engine] = max(held[name].get(copy.engine, 0), copy.resident_tokens)
    for name, tokens in reversed(held.items()):  # the latest last, so that it is forgotten last
        homes.told(name, tokens, now)


async def watch(homes: Homes, service: Service, asked: asyncio.Event) -> None:
    """Ask and learn until cancelled; `asked` is set after the first answer, or its failure.

    A service that is away is asked again, and said once to be away.
    """
    away = False
    while True:
        limit = CONTEXTS if asked.is_set() and not away else FIRST_CONTEXTS
        try:
            snapshot = await asyncio.wait_for(service.snapshot(None, limit), 5)
        except Exception as error:
            if not away:
                logger.warning("the residency service is away, routing goes on by what is known: %s", error)
            away = True
        else:
            away = False
            learn(homes, snapshot, time.monotonic())
        asked.set()
        await asyncio.sleep(PERIOD_S)
