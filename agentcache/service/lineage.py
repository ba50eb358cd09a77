"""Which conversation a prompt goes on from, by its content alone: most clients name no session."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import msgspec

TEXT_PIECE = 256
TOKEN_PIECE = 16


class Lineage:
    """Remembers where the prompts of conversations ended; forgets those unused for longest.

    A prompt goes on from the longest remembered prompt that is its prefix, counted in whole messages (in pieces of
    256 characters or 16 tokens where there are no messages). Scoped by tenant.
    """

    def __init__(self, capacity: int = 65_536) -> None:
        self.capacity = capacity
        self._ends: OrderedDict[bytes, str] = OrderedDict()

    def follow(self, tenant: str | None, body: dict[str, Any], job: str | None) -> str:
        """The job of this prompt: `job` where it is known, else the one it goes on from, else a new one."""
        digests = list(chained(tenant, body))
        found = job or next((self._ends[d] for d in reversed(digests) if d in self._ends), None)
        if not digests:  # too short to be known again
            return found or f"lineage-{uuid4().hex}"
        end = digests[-1]
        name = self._ends[end] = found or f"lineage-{end.hex()}"
        self._ends.move_to_end(end)
        if len(self._ends) > self.capacity:
            self._ends.popitem(last=False)
        return name

    def __len__(self) -> int:
        return len(self._ends)


def chained(tenant: str | None, body: dict[str, Any]) -> Iterator[bytes]:
    """A digest for each prefix of the prompt, of 16 bytes; each commits to everything before it."""
    start = (tenant, body.get("model"), body.get("tools"), body.get("system"))
    digest = hashlib.blake2b(msgspec.json.encode(start), digest_size=16).digest()
    for piece in _pieces(body):
        digest = hashlib.blake2b(digest + msgspec.json.encode(piece), digest_size=16).digest()
        yield digest


def _pieces(body: dict[str, Any]) -> Iterator[Any]:
    messages = body.get("messages", body.get("input"))
    if isinstance(messages, list):
        for message in messages:
            # Clients send an answer back with less than they were given.
            yield (message.get("role"), message.get("content")) if isinstance(message, dict) else message
        return
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        prompt = prompt[0]
    if isinstance(prompt, str | list):
        size = TEXT_PIECE if isinstance(prompt, str) else TOKEN_PIECE
        for at in range(0, len(prompt) - size + 1, size):
            yield prompt[at : at + size]
