"""Requests that come without a plan, as those of `ray.serve.llm` do: what a router can know of them by itself."""

import asyncio
import time
from typing import Any

import msgspec

from agentcache.service.routing.call import BYTES_PER_TOKEN, Plan
from agentcache.service.routing.conversations import Lineage
from agentcache.service.routing.homes import Homes

SHOWN = ("model", "tools", "messages", "prompt")


class Guests:
    """Plans requests by what this router has sent before.

    Whose they are, Serve's session header and their content say; how long they are, their text. Where contexts are
    follows from where they were sent: no replica of another application reports what it holds.
    """

    def __init__(self) -> None:
        self._homes, self._lineage = Homes(), Lineage()

    def plan(self, args: list[Any], session: str) -> Plan | None:
        """A plan for a request with an argument that has `messages` or a `prompt`; None for any other."""
        asked = next((arg for arg in args if hasattr(arg, "messages") or hasattr(arg, "prompt")), None)
        if asked is None:
            return None
        shown = {name: getattr(asked, name) for name in SHOWN if hasattr(asked, name)}
        raw = msgspec.json.encode(shown, enc_hook=str)
        job = self._lineage.follow(None, msgspec.json.decode(raw), None, session or None)
        return self._homes.plan(job, int(len(raw) / BYTES_PER_TOKEN) + 1, tree=session or None)

    def sent(self, plan: Plan, wait_s: float) -> None:
        """A request has been sent; nobody will say when its first token comes, so it is expected when it is due."""
        assert plan.replica
        self._homes.served(plan.job, plan.replica, plan.tokens, time.monotonic())
        asyncio.get_running_loop().call_later(wait_s + plan.rebuild_s, setattr, plan, "started", True)
