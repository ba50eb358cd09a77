"""Streams that break, as the official clients see them: a real front on a real socket, a replica in its own process."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from agentcache.files import free_port
from agentcache.service.config import ServiceConfig
from agentcache.service.front.endings import last_words
from agentcache.service.front.http import api
from agentcache.service.front.ingress import LOST, Ingress
from agentcache.service.front.tenants import Tenants
from agentcache.service.replicas.wire import Address, Wires
from agentcache.service.routing.call import Head, Plan, RoutedCall
from tests.service.stand import Local

ROOT = Path(__file__).parents[3]
SAID: list[Any] = [{"role": "user", "content": "hello"}]


class Wired:
    """The replica as an ingress reaches it."""

    def __init__(self, address: Address) -> None:
        self._address, self._wires = address, Wires()

    async def send(self, call: RoutedCall, plan: Plan, session: str | None) -> AsyncIterator[Head | bytes]:
        plan.replica = "r1"
        async with aclosing(self._wires.ask(self._address, call, plan)) as parts:
            async for part in parts:
                yield part

    async def metrics(self) -> list[tuple[str, str, float]]:
        return []


@contextmanager
def front() -> Iterator[str]:
    """The URL of an ingress that listens itself, before one replica."""
    command = [sys.executable, "-m", "tests.service.breaking"]
    replica = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert replica.stdout
    address = Address(**json.loads(replica.stdout.readline()))
    config = ServiceConfig(model="none", listen=("127.0.0.1", free_port()))
    app = api(Ingress(config, Wired(address), Tenants([])), Local())
    loop, up, end = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with app.router.lifespan_context(app):
            up.set()
            await end.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        up.wait()
        yield f"http://127.0.0.1:{config.listen[1]}"  # type: ignore[index]
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        replica.communicate(timeout=240)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with front() as url:
        yield url


def gpt(url: str) -> openai.OpenAI:
    http = openai.DefaultHttpxClient(trust_env=False)
    return openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0, http_client=http)


def claude(url: str) -> anthropic.Anthropic:
    http = anthropic.DefaultHttpxClient(trust_env=False)
    return anthropic.Anthropic(base_url=url, api_key="-", max_retries=0, http_client=http)


def chat(url: str, model: str) -> list[Any]:
    return list(gpt(url).chat.completions.create(model=model, messages=SAID, stream=True))


def completions(url: str, model: str) -> list[Any]:
    return list(gpt(url).completions.create(model=model, prompt="hello", stream=True))


def responses(url: str, model: str) -> list[Any]:
    return list(gpt(url).responses.create(model=model, input="hello", stream=True))


def messages(url: str, model: str) -> list[Any]:
    return list(claude(url).messages.create(model=model, messages=SAID, max_tokens=9, stream=True))


def final_response(url: str, model: str) -> Any:
    with gpt(url).responses.stream(model=model, input="hello") as stream:
        return stream.get_final_response()


def final_message(url: str, model: str) -> Any:
    with claude(url).messages.stream(model=model, messages=SAID, max_tokens=9) as stream:
        return stream.get_final_message()


Reader = Callable[[str, str], Any]
READERS: list[Reader] = [chat, completions, responses, messages, final_response, final_message]
every_reader = pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)


@every_reader
def test_a_whole_stream_raises_nothing(url: str, read: Reader) -> None:
    assert read(url, "whole")


@every_reader
def test_an_engine_that_fails_in_the_middle_is_raised_by_the_official_client(url: str, read: Reader) -> None:
    with pytest.raises((openai.APIError, anthropic.APIStatusError), match=LOST):
        read(url, "fails")


@every_reader
def test_a_replica_that_is_killed_in_the_middle_is_raised_by_the_official_client(read: Reader) -> None:
    with front() as url, pytest.raises((openai.APIError, anthropic.APIStatusError), match=LOST):
        read(url, "killed")


@every_reader
def test_a_stream_that_breaks_within_an_event_has_no_end(url: str, read: Reader) -> None:
    """The official clients differ in what they make of it, but no half answer is returned."""
    with pytest.raises(Exception, match=r"incomplete chunked read|Connection error"):
        read(url, "within")


def test_who_follows_a_response_sees_it_fail(url: str) -> None:
    """As Codex does, by the event and not by an exception."""
    seen: list[Any] = []
    with pytest.raises(openai.APIError):
        seen.extend(gpt(url).responses.create(model="fails", input="hello", stream=True))
    assert [event.sequence_number for event in seen] == list(range(5))
    failed = seen[-1]
    assert failed.type == "response.failed" and failed.response.id == "resp_1" and failed.response.status == "failed"
    assert failed.response.error and failed.response.error.code == "server_error"


@pytest.mark.parametrize("model", ["fails", "measured"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_json_that_is_lost_half_way_has_no_end_and_nothing_glued_on(url: str, path: str, model: str) -> None:
    got: list[bytes] = []
    with httpx.Client(trust_env=False) as http, http.stream("POST", url + path, json={"model": model}) as answer:
        assert answer.status_code == 200 and ("content-length" in answer.headers) == (model == "measured")
        with pytest.raises(httpx.RemoteProtocolError):
            got.extend(answer.iter_raw())
    assert b"".join(got) == b'{"id": "c", "choices": ['


@pytest.mark.parametrize("first", [b"", b"data: {\n\n", b"data: {}\n\n", b'data: {"response": 1}\n\n', b": ping\n\n"])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/v1/completions", "/other"])
def test_last_words_need_not_understand_the_first(path: str, first: bytes) -> None:
    words = last_words(path, first, first, "why")
    assert words and words.endswith(b"\n\n") and b"why" in words
    assert last_words(path, first, b"data: {", "why") is None
