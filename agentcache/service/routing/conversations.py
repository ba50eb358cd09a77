"""Which conversation a prompt goes on from, by its content alone: most clients name no session."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import msgspec

from agentcache.errors import CheckFailed

TEXT_PIECE = 256
TOKEN_PIECE = 16


BILLING = "x-anthropic-billing-header"
"""How a block begins that is another one in every call and that the model is not shown."""


class Lineage:
    """Remembers where the prompts of conversations ended, at most `capacity` of them; forgets those unused for longest.

    A prompt goes on from the longest remembered prompt that is its prefix, counted in whole messages (in pieces of
    256 characters or 16 tokens where there are no messages). Scoped by tenant, and by tree where there is one.
    """

    def __init__(self, capacity: int = 65_536) -> None:
        self.capacity = capacity
        self._ends: OrderedDict[bytes, str] = OrderedDict()
        self._trees: OrderedDict[str, None] = OrderedDict()  # of which a conversation bears the name

    def follow(self, tenant: str | None, body: dict[str, Any], known: str | None, tree: str | None = None) -> str:
        """The conversation of this prompt: `known` where it is, else the one it goes on from, else a new one.

        The first conversation of a tree has the tree's name: most trees have no other.
        """
        digests = list(chained(tenant, tree, body))
        found = known or next((self._ends[d] for d in reversed(digests) if d in self._ends), None)
        if not digests:  # too short to be known again
            return found or tree or f"lineage-{uuid4().hex}"
        end = digests[-1]
        if found is None:
            branch = f"lineage-{end.hex()}"
            found = branch if tree is None else tree if tree not in self._trees else f"{tree}#{branch}"
        if tree is not None:
            self._keep(self._trees, tree, None)
        self._keep(self._ends, end, found)
        return found

    def _keep(self, kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
        kept[key] = value
        kept.move_to_end(key)
        if len(kept) > self.capacity:
            kept.popitem(last=False)

    def __len__(self) -> int:
        return len(self._ends)

    def check(self) -> None:
        """Raise `CheckFailed` if more is remembered than allowed."""
        for kept in (self._ends, self._trees):
            if len(kept) > self.capacity:
                raise CheckFailed(f"{len(kept)} are remembered, {self.capacity} are allowed")


def chained(tenant: str | None, tree: str | None, body: dict[str, Any]) -> Iterator[bytes]:
    """A digest of 16 bytes for each prefix of the prompt as the model sees it; each commits to everything before it."""
    system = _seen(body.get("system"), "system"), _seen(body.get("tools")), body.get("instructions")
    start = (tenant, tree, body.get("model"), system)
    digest = hashlib.blake2b(msgspec.json.encode(start), digest_size=16).digest()
    for piece in _pieces(body):
        digest = hashlib.blake2b(digest + msgspec.json.encode(piece), digest_size=16).digest()
        yield digest


def _pieces(body: dict[str, Any]) -> Iterator[Any]:
    messages = body.get("messages", body.get("input"))
    if isinstance(messages, list):
        for message in messages:
            yield _message(message) if isinstance(message, dict) else message
        return
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        prompt = prompt[0]
    if isinstance(prompt, str | list):
        size = TEXT_PIECE if isinstance(prompt, str) else TOKEN_PIECE
        for at in range(0, len(prompt) - size + 1, size):
            yield prompt[at : at + size]


def _message(message: dict[str, Any]) -> Any:
    """Clients send an answer back with less than they were given: who said what is all that is sure to be there."""
    if "content" not in message:  # a tool's call or result, in OpenAI's Responses
        return {key: value for key, value in message.items() if key not in ("id", "status")}
    return message.get("role"), _seen(message["content"], message.get("role"))


def _seen(content: Any, role: Any = None) -> Any:
    """Blocks as the model sees them: without marks for caches, which move from turn to turn, and without bills."""
    if isinstance(content, str):
        return "" if _is_bill(content, role) else content
    if not isinstance(content, list):
        return content
    return [
        {key: value for key, value in block.items() if key != "cache_control"} if isinstance(block, dict) else block
        for block in content
        if not (isinstance(block, dict) and _is_bill(block.get("text"), role))
    ]


def _is_bill(text: Any, role: Any) -> bool:
    return role == "system" and isinstance(text, str) and text.startswith(BILLING)
