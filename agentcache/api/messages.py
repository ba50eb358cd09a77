"""What engines, clients and the residency service say to each other: typed, schema-versioned, msgpack on the wire.

Three conversations. An *engine* sends a `Report` a few times a second and gets a `Reply`: what it holds by context in
runs of tokens, never block hashes; back come commands and parameters. A *client* states an `Action` about its own job
and gets an `Answer` with one of five outcomes. An *operator* asks for a `Snapshot` or an `Explanation`.

Times on the wire are durations in seconds (`idle_s`, `ttl_s`), never clock readings: two machines share no clock.
Lengths and positions are tokens. Job and context ids carry their tenant: `tenant/name`, see `scoped`.
"""

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from agentcache.errors import InputError

SCHEMA = "agentcache-service/1"
"""Named by every report and reply; peers that name another one keep apart."""

MAX_ID_BYTES = 256
MAX_TTL_S = 86_400.0

Outcome = Literal["accepted", "clipped", "deferred", "rejected", "missing"]
"""What became of a claim: done; done in part; written down for later; refused; its target is not known."""

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=2 * MAX_ID_BYTES + 1)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_BYTES)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=MAX_TTL_S)]
Tokens = Annotated[int, msgspec.Meta(ge=0)]
Run = tuple[Tokens, Tokens]
"""Resident tokens [start, end) of a context."""


def scoped(tenant: str, name: str) -> str:
    """The id that engines and service use for a tenant's job or session; an engine's tenant is its `cache_salt`."""
    return f"{tenant}/{name}"


def tenant_of(id: str) -> str:
    """The tenant that an id is scoped by; empty for ids that an engine made up for requests without hints."""
    tenant, slash, _ = id.partition("/")
    return tenant if slash else ""


# Engine to service


class ContextState(msgspec.Struct, frozen=True, array_like=True):
    """One context as an engine holds it now.

    `state`: `running` while a turn of it is open, `idle`, or `gone` when the engine has forgotten it. `standing` is
    why it is idle (a `Standing`'s value), `tool` what it called, `idle_s` since when. `tokens` is the length of its
    chain of full blocks, `runs` what of it is resident, ascending and apart, `below` what host memory alone has.
    """

    id: Id
    job: Id
    state: Literal["running", "idle", "gone"]
    standing: Literal["unknown", "tool", "end_turn", "ended", "superseded"] = "unknown"
    tool: str | None = None
    depth: int = 0
    tokens: Tokens = 0
    runs: tuple[Run, ...] = ()
    idle_s: float = 0.0
    below: tuple[Run, ...] = ()

    @property
    def resident_tokens(self) -> int:
        return sum(end - start for start, end in self.runs)


class Pause(msgspec.Struct, frozen=True, array_like=True):
    """One pause that ended with a return: its class (stop reason, tool, depth of the turn before it) and length."""

    standing: Literal["unknown", "tool", "end_turn", "ended", "superseded"]
    tool: str | None
    depth: int
    seconds: Annotated[float, msgspec.Meta(ge=0)]


class Done(msgspec.Struct, frozen=True, array_like=True):
    """What an engine did with a command; `tokens` is how many it freed, kept or demoted."""

    command: int
    outcome: Outcome
    tokens: int = 0
    detail: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="schema", tag=SCHEMA):
    """A batch of deltas of one engine.

    `engine` is its name in the cluster, `epoch` is new whenever it starts, `seq` counts its reports from 1. A `full`
    report names everything that the engine holds: what it does not name is gone. `dropped` counts the summaries that
    its bounded queue has lost so far; `c_lin` s/token and `c_att` s/token^2 are its prices of computing, `load_s`
    s/token that of a load from host memory.
    """

    engine: Annotated[str, msgspec.Meta(pattern="^[^/]+$", max_length=MAX_ID_BYTES)]
    epoch: str
    seq: int
    full: bool = False
    capacity_tokens: Tokens = 0
    free_tokens: Tokens = 0
    c_lin: float = 0.0
    c_att: float = 0.0
    load_s: float = 0.0
    dropped: int = 0
    contexts: tuple[ContextState, ...] = ()
    pauses: tuple[Pause, ...] = ()
    done: tuple[Done, ...] = ()


# Service to engine


class Evict(msgspec.Struct, frozen=True, array_like=True, tag="evict"):
    """Drop the idle blocks of a context that lie in [start, end)."""

    id: int
    context: str
    start: Tokens
    end: Tokens
    reason: str = ""


class Retain(msgspec.Struct, frozen=True, array_like=True, tag="retain"):
    """Evict nothing of this job for so long, unless nothing else is left."""

    id: int
    job: str
    ttl_s: Seconds
    keep_priority: int = 35
    reason: str = ""


class Release(msgspec.Struct, frozen=True, array_like=True, tag="release"):
    """This job is over or given up: its contexts go first."""

    id: int
    job: str
    reason: str = ""


class ToolBegan(msgspec.Struct, frozen=True, array_like=True, tag="tool_began"):
    """A tool of this job runs, and is expected to for so long."""

    id: int
    job: str
    tool: str
    expected_s: float | None = None


class ToolEnded(msgspec.Struct, frozen=True, array_like=True, tag="tool_ended"):
    """A tool of this job has finished: its next turn is about to come."""

    id: int
    job: str
    tool: str


Command = Evict | Retain | Release | ToolBegan | ToolEnded


class Parameters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an engine goes by from now on.

    `period_s`: the time between two reports, longer when the service is busy. `max_contexts`: how many summaries a
    report may carry. `pauses`: those that ended elsewhere in the cluster, to learn from as from its own.
    """

    period_s: float = 0.25
    max_contexts: int = 512
    pauses: tuple[Pause, ...] = ()


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="schema", tag=SCHEMA):
    """The service's answer to a report. `service` names the instance, `incarnation` orders instances by age.

    `resync` asks for a full report next: the service has restarted, or something was lost.
    """

    service: str
    incarnation: float = 0.0
    seq: int = 0
    resync: bool = False
    parameters: Parameters = Parameters()
    commands: tuple[Command, ...] = ()


# Client to service


class StartJob(msgspec.Struct, frozen=True, kw_only=True, tag_field="action", tag="start_job"):
    """A job is about to begin; a `parent` makes it a sub-agent's."""

    job: Name
    parent: Name | None = None
    request_id: Name | None = None


class StartTurn(msgspec.Struct, frozen=True, kw_only=True, tag_field="action", tag="start_turn"):
    """The client is about to send a turn of a job."""

    job: Name
    request_id: Name | None = None


class EndTurn(msgspec.Struct, frozen=True, kw_only=True, tag_field="action", tag="end_turn"):
    """A turn has been answered; `tool` is what it asked for, `last` promises whether another one follows."""

    job: Name
    tool: Name | None = None
    last: bool | None = None
    request_id: Name | None = None


class StartTool(msgspec.Struct, frozen=True, kw_only=True, tag_field="action", tag="start_tool"):
    """A tool begins to run; `expected_s` is the client's guess of how long."""

    job: Name
    tool: Name
    expected_s: Seconds | None = None
    request_id: Name | None = None


class FinishTool(msgspec.Struct, frozen=True, kw_only=True, tag_field="action", tag="finish_tool"):
    """A tool has finished; the job's next turn is near."""

    job: Name
    tool: Name
    request_id: Name | None = None


class RetainJob(msgspec.Struct, frozen=True, kw_only=True, tag_field="action", tag="retain"):
    """Keep a job's contexts for `ttl_s`. Asked again with its `lease`, a lease is renewed."""

    job: Name
    ttl_s: Seconds
    keep_priority: Annotated[int, msgspec.Meta(ge=0, le=100)] = 35
    lease: Name | None = None
    request_id: Name | None = None


class ReleaseJob(msgspec.Struct, frozen=True, kw_only=True, tag_field="action", tag="release"):
    """Give up a job's leases and its place in memory; it may still come back."""

    job: Name
    request_id: Name | None = None


class EndJob(msgspec.Struct, frozen=True, kw_only=True, tag_field="action", tag="end_job"):
    """A job has ended: nothing of it is expected back."""

    job: Name
    request_id: Name | None = None


Action = StartJob | StartTurn | EndTurn | StartTool | FinishTool | RetainJob | ReleaseJob | EndJob


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of an action. `granted_s` and `granted_priority` say what of a retention was granted."""

    outcome: Outcome
    detail: str = ""
    lease: str | None = None
    granted_s: float | None = None
    granted_priority: int | None = None
    request_id: str | None = None


# Looking


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """What one engine holds of a context; `rebuild_s` is what a turn there would have to pay for the rest.

    What host memory alone has (`below`) is paid for by a load where that is sooner.
    """

    engine: str
    state: str
    resident_tokens: int
    runs: tuple[Run, ...]
    rebuild_s: float
    home: bool
    below: tuple[Run, ...] = ()


class ContextView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    job: str
    standing: str
    tool: str | None
    depth: int
    tokens: int
    idle_s: float
    copies: tuple[Copy, ...]


class EngineView(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    epoch: str
    heard_s: float
    contexts: int
    resident_tokens: int
    capacity_tokens: int
    free_tokens: int
    dropped: int
    queued_commands: int


class PauseView(msgspec.Struct, frozen=True, kw_only=True):
    """Recent pauses of a class, over all engines."""

    standing: str
    tool: str | None
    count: int
    mean_s: float
    p50_s: float
    p90_s: float


class TenantView(msgspec.Struct, frozen=True, kw_only=True):
    tenant: str
    jobs: int
    contexts: int
    resident_tokens: int
    budget_tokens: int | None
    leased_tokens: int
    leases: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What the service knows now, of one tenant or of all; at most `limit` contexts, most recent first."""

    service: str
    policy: str
    uptime_s: float
    engines: tuple[EngineView, ...]
    tenants: tuple[TenantView, ...]
    contexts: tuple[ContextView, ...]
    pauses: tuple[PauseView, ...]
    counts: dict[str, int]
    memory_bytes: int


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job's contexts are where they are: its copies, leases, and the latest decisions about it, oldest first.

    `paid_s` and `saved_s` are the rebuild seconds that its returns cost and were spared, by the cost model.
    """

    job: str
    outcome: Outcome
    contexts: tuple[ContextView, ...] = ()
    leases: dict[str, float] = {}
    decisions: tuple[str, ...] = ()
    paid_s: float = 0.0
    saved_s: float = 0.0


# The wire

_T = TypeVar("_T", Report, Reply)
_encoder = msgspec.msgpack.Encoder()
_decoders: dict[type, msgspec.msgpack.Decoder[Any]] = {
    Report: msgspec.msgpack.Decoder(Report),
    Reply: msgspec.msgpack.Decoder(Reply),
}


class _Header(msgspec.Struct):
    schema: str = "none"


_header = msgspec.msgpack.Decoder(_Header)


class OtherSchema(InputError):
    """A message of another version of the service's schema."""


def encode(message: Report | Reply) -> bytes:
    return _encoder.encode(message)


def decode(data: bytes, kind: type[_T]) -> _T:
    """Read a message. Raises `OtherSchema` for one that names another schema, `InputError` for any other fault."""
    try:
        if (schema := _header.decode(data).schema) != SCHEMA:
            raise OtherSchema(
                f"a {kind.__name__.lower()} speaks {schema[:64]!r}, expected {SCHEMA!r}; it is not read",
                hint="run one version of agentcache in engines and service",
            )
        return _decoders[kind].decode(data)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not a {kind.__name__.lower()} of {SCHEMA}: {error}; it is not read") from error
