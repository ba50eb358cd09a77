"""The client helper and the proxy: dialects, tools and ends from answers, ids of branches, jobs that end early."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from agentcache.errors import ConfigError
from agentcache_continuum.client import AsyncJob, Job
from agentcache_continuum.proxy import Conversations, Proxy, tool_ran
from agentcache_continuum.tools import tool_in_answer, tool_in_text


def chat(name: str | None = None, content: str | None = None, reason: str = "stop") -> dict[str, Any]:
    calls = [{"id": "1", "type": "function", "function": {"name": name, "arguments": "{}"}}] if name else None
    message = {"role": "assistant", "content": content, "tool_calls": calls}
    return {"choices": [{"message": message, "finish_reason": "tool_calls" if name else reason}]}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (chat("grep"), ("grep", False)),
        (chat(content="done"), (None, True)),
        (chat(content="cut off", reason="length"), (None, None)),
        (chat(content="```bash\nls -l | wc\n```"), ("ls", False)),
        ({"choices": [{"text": "42", "finish_reason": "stop"}]}, (None, True)),
        ({"status": "completed", "output": [{"type": "function_call", "name": "f"}]}, ("f", False)),
        ({"status": "completed", "output": [{"type": "message"}]}, (None, True)),
        ({"status": "incomplete", "output": []}, (None, None)),
        ({"stop_reason": "tool_use", "content": [{"type": "text"}, {"type": "tool_use", "name": "g"}]}, ("g", False)),
        ({"stop_reason": "end_turn", "content": [{"type": "text"}]}, (None, True)),
        ({"stop_reason": "max_tokens", "content": []}, (None, None)),
        ({"error": "what"}, (None, None)),
    ],
)
def test_tool_and_end_are_read_from_answers(answer: dict[str, Any], said: tuple[str | None, bool | None]) -> None:
    assert tool_in_answer(answer) == said


@pytest.mark.parametrize(
    ("text", "tool"),
    [
        (None, None),
        ("plain", None),
        ("```bash\n  git diff\n```", "git"),
        ("```bash\na\n```\n```bash\nb\n```", None),
        ("```bash\n\n```", None),
        ('<tool_call>{"name": "s", "arguments": {"a": {}}}</tool_call>', "s"),
        ("<tool_call>{broken}</tool_call>```bash\nls\n```", "ls"),
        ("x" * 1_000_000, None),
    ],
)
def test_tools_in_bare_text(text: str | None, tool: str | None) -> None:
    assert tool_in_text(text) == tool


def test_each_server_gets_its_dialect() -> None:
    made = {}
    for dialect in ("preview", "plugin", "agentcache", "session"):
        job = Job(dialect, "j")  # type: ignore[arg-type]
        assert "last_func_call" not in str(job.body({"model": "m"})), "nothing ran before the first turn"
        job.saw(chat("grep"))
        made[dialect] = job.body({"model": "m", "vllm_xargs": {"x": 1}}, tool_next="ls", last=False)
    fields = {"job_id": "j", "last_func_call": "grep", "this_func_call": "ls"}
    assert made["preview"] == {"model": "m", "vllm_xargs": {"x": 1}, **fields, "is_last_step": False}
    assert made["plugin"] == {"model": "m", "vllm_xargs": {"x": 1, **fields, "is_last_step": 0}}
    assert made["agentcache"] == {**made["plugin"], "session_id": "j"}
    assert made["session"] == {"model": "m", "vllm_xargs": {"x": 1}, "session_id": "j"}
    assert Job("session", "j").headers() == {"X-Session-ID": "j"}
    with pytest.raises(ConfigError, match="nothing was sent"):
        Job("fork")  # type: ignore[arg-type]


def test_ids_are_unique_and_branches_have_their_own() -> None:
    assert Job().id != Job().id
    assert Job(prefix="tenant/").id.startswith("tenant/")
    one = Job("preview", "j")
    left, right = one.branch(), one.branch()
    assert [job.body({})["job_id"] for job in (one, left, right)] == ["j", "j.1", "j.2"]
    ours = Job("agentcache", "j").branch().body({})
    assert (ours["session_id"], ours["vllm_xargs"]["job_id"]) == ("j.1", "j"), "one job, two contexts"


async def parts(answer: dict[str, Any]) -> AsyncIterator[bytes]:
    text = json.dumps(answer).encode()
    yield text[:5]
    yield text[5:]


def server(answers: list[dict[str, Any]], seen: list[dict[str, Any]]) -> httpx.AsyncClient:
    def handle(request: httpx.Request) -> httpx.Response:
        seen.append({"path": request.url.path, "headers": request.headers, **json.loads(request.content)})
        return httpx.Response(200 if answers else 500, content=parts(answers.pop(0) if answers else {}))

    return httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url="http://server")


def test_a_job_closes_when_it_ends_early_fails_or_is_cancelled_and_not_twice() -> None:
    async def one(answers: list[dict[str, Any]], raises: type[BaseException] | None) -> list[dict[str, Any]]:
        seen: list[dict[str, Any]] = []
        async with server(answers, seen) as client:
            try:
                async with AsyncJob(client, "m", Job("preview", "j")) as job:
                    await job.post("/v1/chat/completions", {"messages": []})
                    if raises:
                        raise raises
            except (RuntimeError, asyncio.CancelledError):
                pass
        return seen

    over = asyncio.run(one([chat(content="done")], None))
    assert len(over) == 1, "the answer called no tool: nothing was kept for it"
    for raises in (None, RuntimeError, asyncio.CancelledError):
        seen = asyncio.run(one([chat("grep")], raises))  # and the server fails when the job is closed
        assert len(seen) == 2
        assert (seen[1]["job_id"], seen[1]["is_last_step"], seen[1]["max_tokens"]) == ("j", True, 1)
        assert seen[1]["last_func_call"] == "grep"


USER = {"role": "user", "content": "find it"}
CALL = chat("grep")["choices"][0]["message"]
RESULT = {"role": "tool", "tool_call_id": "1", "content": "here"}


def test_the_tool_that_ran_is_in_the_messages() -> None:
    assert tool_ran([USER, CALL, RESULT]) == "grep"
    assert tool_ran([USER, CALL]) is None
    assert tool_ran([USER]) is None
    assert tool_ran([USER, {"role": "assistant", "content": "x"}, USER]) is None
    part = {"type": "tool_use", "name": "read"}
    assert tool_ran([USER, {"role": "assistant", "content": [part]}, USER]) == "read"


def test_a_conversation_is_a_job_and_what_runs_beside_it_a_branch() -> None:
    book = Conversations("preview")
    first = book.take(None, [USER])
    beside = book.take(None, [USER])
    assert beside.id == f"{first.id}.1"
    book.done(first)
    book.done(beside)
    longer = book.take(None, [USER, CALL, RESULT])
    assert longer.id in (first.id, beside.id)
    book.done(longer)
    assert book.take(None, [{"role": "user", "content": "another"}]).id not in (first.id, beside.id)
    by_name = [book.take("s", [USER]), book.take("s", [])]
    assert [job.id for job in by_name] == ["s", "s.1"]
    for number in range(100):
        small = Conversations("preview", most=5)
        small.take(str(number), [])
    assert len(small) <= 5


async def through(proxy: Proxy, body: bytes, path: str = "/v1/chat/completions", **headers: str) -> list[Any]:
    sent: list[Any] = []
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    scope = {"type": "http", "method": "POST", "path": path, "headers": raw, "query_string": b""}
    await proxy(scope, receive, send)
    return sent


def test_the_proxy_speaks_for_plain_clients_and_passes_the_rest_on() -> None:
    seen: list[dict[str, Any]] = []

    async def run() -> list[Any]:
        async with server([chat("grep"), chat(), chat()], seen) as client:
            proxy = Proxy("http://server", "preview", client)
            answers = [
                await through(proxy, json.dumps({"messages": messages}).encode(), **headers)
                for messages, headers in (([USER], {}), ([USER, CALL, RESULT], {}), ([USER], {"x_session_id": "s"}))
            ]
            answers.append(await through(proxy, b'{"job_id": "mine"}'))
            return answers

    answers = asyncio.run(run())
    first, second, third, own = seen
    assert first["job_id"] == second["job_id"]
    assert (second["last_func_call"], third["job_id"], own["job_id"]) == ("grep", "s", "mine")
    assert [answer[0]["status"] for answer in answers] == [200, 200, 200, 500]
    assert json.loads(b"".join(m.get("body", b"") for m in answers[0])) == chat("grep")


def test_a_server_that_is_away_is_a_502() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    client = httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url="http://server")
    sent = asyncio.run(through(Proxy("http://server", "session", client), b"not JSON"))
    assert sent[0]["status"] == 502
