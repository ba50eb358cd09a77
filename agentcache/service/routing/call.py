"""What travels between the ingress and a replica: one HTTP request, the head of its answer, and what routes it."""

from dataclasses import dataclass, field

BYTES_PER_TOKEN = 4.0
"""Of a request's body, as long as no answer has told better."""


@dataclass(slots=True)
class Plan:
    """What is known of one request before it runs, for the router; it travels with the request.

    `tokens`: expected prompt tokens. `resident`: of those, how many each replica holds, by replica. `home`: the
    replica that served the job last; `job` spreads those that have none. `source`: the ingress that routes it.
    `avoid`: replicas not to be asked again. `request`: names the request to its replica.
    The router writes `replica` and `rebuild_s` (expected seconds until the first token there, without queueing); the
    ingress sets `started` when the first byte has come, `ended` when it has nothing more to expect.
    """

    tokens: int = 0
    resident: dict[str, int] = field(default_factory=dict)
    home: str | None = None
    job: str = ""
    source: str = ""
    avoid: frozenset[str] = frozenset()
    request: str = ""
    replica: str | None = None
    rebuild_s: float = 0.0
    started: bool = False
    ended: bool = False


@dataclass(frozen=True, slots=True)
class RoutedCall:
    """An HTTP request for a replica's ASGI application. Header names are lower-case."""

    method: str
    path: str
    query: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer, who gives it, and the first piece of its body: one message for a short answer."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    replica: str
    body: bytes = b""
