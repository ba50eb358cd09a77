"""Both clients against the real ingress, control API and directory in this process; only the replica is a stand-in."""

import asyncio
from typing import Any

import httpx
import pytest

from agentcache.api import AgentCacheClient, AsyncJob, Job, SyncAgentCacheClient, calls
from agentcache.api.messages import StartJob
from agentcache.errors import EngineError, InputError
from tests.service.stand import Stand

SAID = [{"role": "user", "content": "hello"}]


@pytest.fixture
def stand() -> Stand:
    return Stand()


def client(stand: Stand, **options: Any) -> AgentCacheClient:
    return AgentCacheClient("http://x", model="m", transport=httpx.ASGITransport(stand.app), **options)


def sync(stand: Stand) -> SyncAgentCacheClient:
    made = SyncAgentCacheClient("http://x", model="m")
    made._http = stand.http  # the test client is an httpx.Client over the application
    return made


def xargs(stand: Stand) -> list[dict[str, Any]]:
    return [calls.msgspec.json.decode(call.body).get("vllm_xargs") for call in stand.backend.calls]


def test_a_job_from_its_start_to_its_end(stand: Stand) -> None:
    async def run() -> None:
        async with client(stand) as opened, opened.job("j") as job:
            first = await job.chat(SAID, temperature=0)
            assert first["body"]["messages"] == SAID and first["body"]["temperature"] == 0
            async with job.tool("bash", expected_s=2):
                assert stand.service.directory.explain("", "j", 0.0).outcome != "missing"
            await job.chat(SAID, last=True, vllm_xargs={"mine": 1})
            await job.chat(SAID)
            kept = await job.retain(10, keep_priority=70)
            assert kept.granted_s == 10 and kept.granted_priority == 70
            assert (await job.retain(20, lease=kept.lease)).lease == kept.lease
            assert (await job.release()).outcome == "deferred"
            assert (await job.explain()).job
            assert (await opened.snapshot()).policy == "return-index"

    asyncio.run(run())
    named = {"job_id": "j", "session_id": "j"}
    assert xargs(stand) == [named, named | {"last_func_call": "bash", "is_last_step": 1, "mine": 1}, named]
    assert stand.service.directory.counts["jobs_ended"] == 1


def test_the_synchronous_client_does_the_same(stand: Stand) -> None:
    with sync(stand) as opened, opened.job("j") as job:
        job.chat(SAID)
        with job.tool("bash"):
            pass
        job.chat(SAID)
        assert job.retain(10).lease and job.release().outcome == "deferred"
    assert [said.get("last_func_call") for said in xargs(stand)] == [None, "bash"]
    assert stand.service.directory.counts["jobs_ended"] == 1


def test_turns_go_on_without_the_service(stand: Stand) -> None:
    stand.service.away = True

    async def run() -> None:
        async with client(stand) as opened, opened.job("j") as job:
            async with job.tool("bash"):
                pass
            assert (await job.chat(SAID))["path"] == calls.CHAT
            with pytest.raises(EngineError, match="served without it"):
                await job.retain(10)

    asyncio.run(run())


def test_a_job_ends_when_its_body_raises(stand: Stand) -> None:
    async def run() -> None:
        async with client(stand) as opened:
            with pytest.raises(KeyError):
                async with opened.job("j"):
                    raise KeyError("x")

    asyncio.run(run())
    assert stand.service.directory.counts["jobs_ended"] == 1


def test_a_call_that_is_sent_twice_acts_once(stand: Stand) -> None:
    sent = calls.of_action(StartJob(job="j"))
    assert sent["json"]["request_id"]
    for _ in range(2):
        stand.http.request(**sent)
    assert stand.service.directory.counts["actions_repeated"] == 1


def test_errors_are_ours(stand: Stand) -> None:
    async def run() -> None:
        async with client(stand) as opened:
            with pytest.raises(InputError, match="answered 400"):
                await opened.chat({"status": 400})
            with pytest.raises(InputError, match="answered 422"):
                await opened.act(StartJob(job="\n"))
            stand.backend.faults = [ConnectionError("gone")] * 2
            with pytest.raises(EngineError, match="answered 503"):
                await opened.chat({})
            with pytest.raises(EngineError, match="something else"):
                calls.read(httpx.Response(200, content=b"[]", request=httpx.Request("GET", "http://x")), dict)
        async with AgentCacheClient("http://127.0.0.1:9") as nobody:
            with pytest.raises(EngineError, match="was not answered"):
                await nobody.snapshot()
            async with nobody.job() as job:
                assert job.name.startswith("job-")

    asyncio.run(run())


class Server:
    """Answers requests with so many bytes of an answer as `sends` says, then closes; None: with all, and stays."""

    ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n" + b'{"data": "is"}'

    def __init__(self, *sends: int | None) -> None:
        self.sends = list(sends)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        whole: int | None = None
        while whole is None and (head := await reader.readline()):
            while (line := await reader.readline()).strip():
                head += line
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
            whole = self.sends.pop(0)
            writer.write(self.ANSWER[:whole])
        writer.close()


@pytest.mark.parametrize("kind", [AgentCacheClient, SyncAgentCacheClient])
@pytest.mark.parametrize(
    ("sends", "answered"),
    [
        ([None, 0, None, 0, None], 3),  # closed as it was used again: asked for once more
        ([0, 0], 0),  # and no more than once
        ([None, len(Server.ANSWER) - 5], 1),  # what has begun is not asked for again
    ],
)
def test_a_connection_that_was_closed_unanswered_costs_no_call(
    kind: Any, sends: list[int | None], answered: int
) -> None:
    async def run() -> None:
        server = Server(*sends)
        listening = await asyncio.start_server(server.serve, "127.0.0.1")
        client = kind(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", model="m")

        async def chat() -> Any:
            return await (client.chat({}) if kind is AgentCacheClient else asyncio.to_thread(client.chat, {}))

        async with listening:
            for _ in range(answered):
                assert await chat() == {"data": "is"}
            if server.sends:
                with pytest.raises(EngineError, match="was not answered"):
                    await chat()
            assert not server.sends
            await client.aclose() if kind is AgentCacheClient else client.close()

    asyncio.run(run())


def test_a_broken_stream_is_an_error(stand: Stand) -> None:
    assert calls.event("data: [DONE]") is calls.event(": ping") is calls.event("") is None
    assert calls.event('data: {"a": 1}') == {"a": 1}
    with pytest.raises(EngineError, match="the replica was lost"):
        calls.event('data: {"error": {"message": "the replica was lost"}}')


def test_both_clients_offer_the_same() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(AgentCacheClient) - {"aclose"} == public(SyncAgentCacheClient) - {"close"}
    assert public(AsyncJob) == public(Job)
