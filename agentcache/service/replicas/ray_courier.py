"""Carries an engine's reports to the residency actor and brings the replies back: a process beside the engine.

    python -m agentcache.service.replicas.ray_courier ADDRESS NAMESPACE

A process of its own, because a process that has joined a Ray cluster ends with it, and shares its interpreter lock
with Ray's threads: an engine wants neither. Frames on stdin and stdout are a length (4 bytes, big endian) and a body;
an answer's body starts with a status: `+` and the reply, `s` for another schema, or `a` where no service answers, each
with a line that says why. It ends when stdin does.
"""

import contextlib
import logging
import os
import sys
from typing import IO, Any

import ray

from agentcache.api.frames import read_frame, write_frame
from agentcache.api.messages import OtherSchema
from agentcache.service.actor import NAME

ANSWER_S = 5.0


class Courier:
    """Finds the actor when it is needed, anew after every failure."""

    def __init__(self, address: str, namespace: str) -> None:
        self._address, self._namespace = address, namespace
        self._actor: Any = None

    def carry(self, report: bytes) -> bytes:
        try:
            if self._actor is None:
                self._join()
                self._actor = ray.get_actor(NAME, self._namespace)
            reply: bytes = ray.get(self._actor.exchange.remote(report), timeout=ANSWER_S)
        except Exception as error:
            cause = getattr(error, "cause", error)
            self._actor = None
            status = b"s" if isinstance(cause, OtherSchema) else b"a"
            return status + f"{type(error).__name__}: {cause}".splitlines()[0][:500].encode()
        return b"+" + reply

    def _join(self) -> None:
        if not ray.is_initialized():
            ray.init(
                address=self._address,
                namespace=self._namespace,
                log_to_driver=False,
                configure_logging=False,
                logging_level=logging.CRITICAL,
            )


def serve(courier: Courier, reports: IO[bytes], replies: IO[bytes]) -> None:
    """Answer frame by frame until the engine is gone."""
    with contextlib.suppress(BrokenPipeError):
        while (report := read_frame(reports)) is not None:
            write_frame(replies, courier.carry(report))


def main() -> None:
    address, namespace = sys.argv[1:3]
    # Whatever anybody prints must not get between the frames.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(Courier(address, namespace), sys.stdin.buffer, replies)


if __name__ == "__main__":
    main()
