"""A port for a server that is about to start on this machine."""

import random
import socket
from contextlib import suppress

from agentcache.errors import EngineError


def free_port() -> int:
    """A port that nobody listens on now, below those that the system hands out to others meanwhile."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise EngineError("of 100 ports between 20000 and 32000 none is free; nothing was started", "name one with --port")
