"""The wire: what is encoded is decoded, and what is not ours is refused with a reason."""

import io

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcache.api.frames import read_frame, write_frame
from agentcache.api.messages import (
    SCHEMA,
    Action,
    Command,
    ContextState,
    Evict,
    OtherSchema,
    Parameters,
    Release,
    Reply,
    Report,
    Retain,
    RetainJob,
    ToolBegan,
    ToolEnded,
    decode,
    encode,
    scoped,
    tenant_of,
)
from agentcache.errors import InputError

CONTEXTS = st.builds(
    ContextState,
    id=st.text(min_size=1, max_size=20),
    job=st.text(min_size=1, max_size=20),
    state=st.sampled_from(["running", "idle", "gone"]),
    standing=st.sampled_from(["unknown", "tool", "end_turn", "ended", "superseded"]),
    tokens=st.integers(0, 1 << 40),
    runs=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=3).map(tuple),
)


@given(st.lists(CONTEXTS, max_size=5), st.booleans())
def test_reports_arrive_as_they_were_sent(contexts: list[ContextState], full: bool) -> None:
    report = Report(engine="a", epoch="1", seq=1, full=full, contexts=tuple(contexts))
    assert decode(encode(report), Report) == report
    assert report.contexts == () or report.contexts[0].resident_tokens == sum(e - s for s, e in contexts[0].runs)


@pytest.mark.parametrize(
    "command",
    [
        Evict(1, "t/c", 0, 5, "duplicate"),
        Retain(2, "t/j", 2.0, 50),
        Release(3, "t/j"),
        ToolBegan(4, "t/j", "bash", 3.0),
        ToolEnded(5, "t/j", "bash"),
    ],
    ids=lambda command: type(command).__name__,
)
def test_every_command_arrives_as_it_was_sent(command: Command) -> None:
    reply = Reply(service="s", commands=(command,), parameters=Parameters(period_s=2.0))
    assert decode(encode(reply), Reply) == reply


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(InputError):
        decode(noise, Report)


def test_another_schema_is_named() -> None:
    data = msgspec.msgpack.encode({"schema": "agentcache-service/2", "engine": 7})
    with pytest.raises(OtherSchema, match=f"speaks 'agentcache-service/2', expected '{SCHEMA}'"):
        decode(data, Report)
    with pytest.raises(InputError, match="not a report"):
        decode(msgspec.msgpack.encode({"schema": SCHEMA, "engine": 7}), Report)


def test_newer_fields_are_let_pass() -> None:
    data = msgspec.msgpack.decode(encode(Report(engine="a", epoch="1", seq=1))) | {"invented_later": [1]}
    assert decode(msgspec.msgpack.encode(data), Report).engine == "a"


@pytest.mark.parametrize(
    "body",
    [
        {"action": "retain", "job": "", "ttl_s": 1},
        {"action": "retain", "job": "x" * 300, "ttl_s": 1},
        {"action": "retain", "job": "x", "ttl_s": -1},
        {"action": "retain", "job": "x", "ttl_s": 1e9},
        {"action": "retain", "job": "x", "ttl_s": 1, "keep_priority": 101},
        {"action": "explode", "job": "x"},
    ],
)
def test_actions_out_of_bounds_are_refused(body: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(body, Action)  # type: ignore[arg-type]
    assert msgspec.convert({"action": "retain", "job": "x", "ttl_s": 1}, Action) == RetainJob(job="x", ttl_s=1.0)  # type: ignore[arg-type]


def test_ids_carry_their_tenant() -> None:
    assert tenant_of(scoped("t", "job/with/slashes")) == "t"
    assert tenant_of("~12") == tenant_of(scoped("", "job")) == ""


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_frames(bodies: list[bytes]) -> None:
    pipe = io.BytesIO()
    for body in bodies:
        write_frame(pipe, body)
    whole = pipe.getvalue()
    pipe.seek(0)
    assert [read_frame(pipe) for _ in bodies] == bodies
    assert read_frame(pipe) is None
    if whole:
        cut = io.BytesIO(whole[:-1])
        for _ in bodies[:-1]:
            read_frame(cut)
        with pytest.raises(InputError, match="not read on"):
            read_frame(cut)
    with pytest.raises(InputError, match="expected at most"):
        read_frame(io.BytesIO(b"\xff\xff\xff\xff"))
