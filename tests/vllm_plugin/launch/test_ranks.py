"""All turns of a job name one engine of several, whichever process of the server they come to."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcache.vllm_plugin.launch.command_line import RANKS, middlewares, server_argv
from agentcache.vllm_plugin.launch.ranks import HEADER, JobRanks, job_of, rank_of

SYSTEM = {"role": "system", "content": "You are an agent."}
USER = {"role": "user", "content": "Fix the build."}
TURNS = [
    [SYSTEM, USER],
    [SYSTEM, USER, {"role": "assistant", "content": "ls"}, {"role": "tool", "content": "a"}],
    [SYSTEM, USER, {"role": "assistant", "content": "ls "}, {"role": "tool", "content": "a"}, {"role": "user"}],
]


def app_of(**parallel: Any) -> Any:
    settings = {"data_parallel_size": 4, "local_engines_only": False, **parallel}
    config = SimpleNamespace(parallel_config=SimpleNamespace(**settings))
    return SimpleNamespace(state=SimpleNamespace(vllm_config=config))


def run(
    body: bytes, headers: tuple[tuple[bytes, bytes], ...] = (), path: str = "/v1/chat/completions", **more: Any
) -> Any:
    """The headers and the body that get through."""
    seen = SimpleNamespace()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.headers, seen.body = dict(scope["headers"]), (await receive())["body"]

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None: ...

    scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers), "app": app_of(**more)}
    asyncio.run(JobRanks(app)(scope, receive, send))
    return seen


def body(**request: Any) -> bytes:
    return json.dumps({"model": "m", **request}).encode()


def test_the_server_adds_it_innermost() -> None:
    assert middlewares()[0] == RANKS
    argv = server_argv("m", {}, [])
    assert argv[argv.index("--middleware") + 1] == RANKS


def test_turns_of_a_conversation_go_to_one_engine_and_arrive_as_they_were_sent() -> None:
    seen = [run(body(messages=turn)) for turn in TURNS]
    assert len({one.headers[HEADER] for one in seen}) == 1
    assert [one.body for one in seen] == [body(messages=turn) for turn in TURNS]


def test_conversations_that_begin_otherwise_are_other_jobs() -> None:
    jobs = [job_of(body(messages=[SYSTEM, {"role": "user", "content": str(number)}])) for number in range(50)]
    assert len(set(jobs)) == 50
    assert {rank_of(job or b"", 4) for job in jobs} == {0, 1, 2, 3}
    assert job_of(body(messages=TURNS[0])) != job_of(body(messages=TURNS[0], cache_salt="tenant"))
    assert job_of(body(messages=[USER], system="a")) != job_of(body(messages=[USER], system="b"))


def test_an_id_counts_more_than_the_conversation() -> None:
    ids = [body(messages=turn, vllm_xargs={"job_id": f"j{number}"}) for number, turn in enumerate([TURNS[0]] * 3)]
    assert len({job_of(one) for one in ids}) == 3
    assert job_of(body(prompt="p", vllm_xargs={"session_id": "s"})) == job_of(body(prompt="q"), b"s") == b"/s"
    assert job_of(body(input=[USER], instructions="x")) is not None


@pytest.mark.parametrize(
    ("given", "more"),
    [
        ({"body": body(prompt="who knows"), "path": "/v1/completions"}, {}),
        ({"body": body(messages=TURNS[0]), "headers": ((HEADER, b"3"),)}, {}),
        ({"body": body(messages=TURNS[0]), "path": "/v1/embeddings"}, {}),
        ({"body": body(messages=TURNS[0])}, {"data_parallel_size": 1}),
        ({"body": body(messages=TURNS[0])}, {"local_engines_only": True}),
    ],
    ids=["no job", "named", "another route", "one engine", "another balancer"],
)
def test_others_go_where_they_went(given: dict[str, Any], more: dict[str, Any]) -> None:
    seen = run(**given, **more)
    assert seen.headers == dict(given.get("headers", ()))
    assert seen.body == given["body"]


@pytest.mark.parametrize("app", [None, SimpleNamespace()])
def test_an_app_that_does_not_say_what_it_serves_has_one_engine(app: Any) -> None:
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [], "app": app}
    seen = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    asyncio.run(JobRanks(inner)(scope, None, None))  # type: ignore[arg-type]
    assert seen == [scope]


def test_most_jobs_stay_when_an_engine_is_added() -> None:
    jobs = [b"%d" % number for number in range(1000)]
    moved = sum(rank_of(job, 4) != rank_of(job, 5) for job in jobs)
    assert 100 < moved < 300
    assert all(rank_of(job, 5) == 4 for job in jobs if rank_of(job, 4) != rank_of(job, 5))


@given(
    st.one_of(
        st.binary(max_size=40),
        st.recursive(
            st.none() | st.text(),
            lambda x: st.lists(x)
            | st.dictionaries(
                st.sampled_from(["messages", "vllm_xargs", "job_id", "role", "content", "input", "system"]), x
            ),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_whatever_comes_is_served(junk: bytes) -> None:
    assert run(junk).body == junk
