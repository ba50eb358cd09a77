"""The whole application as `agentcache up` starts it: Serve, two vLLM replicas, HTTP, and what goes wrong with them."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest

pytest.importorskip("vllm", reason="the replicas are vLLM's")
pytest.importorskip("ray", reason="the application is Ray Serve's")

from agentcache.api import AgentCacheClient, SyncAgentCacheClient
from agentcache.api.messages import Snapshot
from agentcache.errors import AgentCacheError, InputError
from agentcache.service.front.ingress import LOST
from agentcache.service.routing.costs import affinity
from tests.command import AGENTCACHE
from tests.service.started import START_S, App, bearer, lives, processes, started

pytestmark = [pytest.mark.vllm, pytest.mark.ray]

CHAT = "/v1/chat/completions"
TRACE = str(Path(__file__).parents[2] / "workloads/data/cc_weka.cut.jsonl.zst")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """Two replicas of tiny-llama behind one URL, evicting by AsymCache's costs."""
    flags = ["--replicas", "2", "--policy", "asymcache", "--max-model-len", "1024", "--num-gpu-blocks-override", "128"]
    with started(tmp_path_factory.mktemp("up"), *flags) as app:
        yield app


def body(text: str, **more: Any) -> dict[str, Any]:
    return {
        "model": "tiny-llama",
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 8,
    } | more


def test_sessions_go_home_and_meet_their_contexts(app: App) -> None:
    texts: dict[str, str] = {}
    replicas: dict[str, set[str]] = {}
    for turn in range(2):
        for session in "abcdefghij":
            answer = app.http.post(CHAT, json=body(session * 300), headers={"X-Session-ID": f"s-{session}"})
            assert answer.status_code == 200, answer.text
            told = answer.json()
            assert told["usage"]["prompt_tokens_details"]["cached_tokens"] >= 256 * turn
            assert (
                texts.setdefault(session, told["choices"][0]["message"]["content"])
                == (told["choices"][0]["message"]["content"])
            )
            replicas.setdefault(session, set()).add(answer.headers["x-agentcache-replica"])
    assert {len(seen) for seen in replicas.values()} == {1}
    assert len(set().union(*replicas.values())) == 2


def test_a_stream_says_what_the_whole_answer_says(app: App) -> None:
    whole = app.http.post(CHAT, json=body("stream " * 20, max_tokens=24)).json()["choices"][0]["message"]["content"]
    pieces = []
    with app.http.stream("POST", CHAT, json=body("stream " * 20, max_tokens=24, stream=True)) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and len(lines) > 10
    for line in lines[:-1]:
        pieces.append(json.loads(line[6:])["choices"][0]["delta"].get("content") or "")
    assert "".join(pieces) == whole


def test_the_client_speaks_for_its_job(app: App) -> None:
    async def session() -> None:
        async with AgentCacheClient(app.url, token="key-red") as client, client.job("build") as job:
            said = [{"role": "user", "content": "read the file " * 20}]
            first = await job.chat(said, max_tokens=8, temperature=0)
            said += [first["choices"][0]["message"], {"role": "user", "content": "now fix it"}]
            async with job.tool("bash", expected_s=0.5):
                kept = await job.retain(ttl_s=30, keep_priority=60)
                assert kept.outcome in ("accepted", "deferred") and kept.lease
            chunks = [chunk async for chunk in job.stream(said, max_tokens=8, temperature=0)]
            assert chunks[-1]["choices"][0]["finish_reason"]
            assert (await job.release()).outcome in ("accepted", "deferred")
            assert (await job.explain()).outcome != "missing"
            blue = AgentCacheClient(app.url, token="key-blue")
            assert (await blue.explain("build")).outcome == "missing"
            await blue.aclose()

    asyncio.run(session())
    with SyncAgentCacheClient(app.url, token="key-blue") as client, client.job() as job:
        assert job.chat([{"role": "user", "content": "hello"}], max_tokens=4)["usage"]["completion_tokens"] <= 4
        with pytest.raises(InputError, match="max_tokens"):
            job.chat([{"role": "user", "content": "hello"}], max_tokens=-1)
    with SyncAgentCacheClient(app.url, token="nobody's") as client, pytest.raises(InputError, match="401"):
        client.snapshot()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_tenant_does_not_meet_anothers_blocks(app: App, path: str) -> None:
    asked = body(f"the secret of {path} " * 20, max_tokens=4)

    def cached(name: str) -> int:
        """Reused prompt tokens of all replicas that this request has caused."""
        before = sum(app.metric("agentcache_reused_tokens_total").values())
        assert app.http.post(path, json=asked, headers=bearer(name)).status_code == 200
        return int(sum(app.metric("agentcache_reused_tokens_total").values()) - before)

    assert [cached(name) > 0 for name in ("red", "red", "blue", "blue")] == [False, True, False, True]


def test_metrics_are_of_all_replicas(app: App) -> None:
    assert len(app.metric("agentcache_build_info")) == 2
    assert sum(app.metric("agentcache_turns_total").values()) > 0
    assert sum(app.metric("agentcache_waiting_rebuild_seconds").values()) == 0


def test_the_service_knows_what_the_replicas_hold(app: App) -> None:
    """Replicas report under their own names, so that the ingress routes by what the service says."""
    turn = app.http.post(CHAT, json=body("known " * 100), headers={"X-Session-ID": "known"})
    replica = turn.headers["x-agentcache-replica"]

    def seen() -> Any:
        with SyncAgentCacheClient(app.url, token="key-red") as client:
            snapshot = client.snapshot(limit=1000)
        assert snapshot.policy == "asymcache"
        return next((context for context in snapshot.contexts if context.job == "red/known" and context.copies), None)

    context = app.until(seen)
    assert [copy.engine for copy in context.copies] == [replica]
    assert context.copies[0].resident_tokens == context.tokens > 64


def test_a_client_that_vanishes_frees_its_place(app: App) -> None:
    for number in range(8):
        more = {"stream": True, "max_tokens": 900, "ignore_eos": True}
        with app.http.stream("POST", CHAT, json=body(f"{number} forever", **more)) as answer:
            next(answer.iter_lines())
    # 900 tokens take seconds; nothing of it runs on.
    app.until(lambda: not sum(app.metric("vllm:num_requests_running").values()))
    assert app.http.post(CHAT, json=body("and now")).status_code == 200


def test_a_flood_of_control_calls_is_shed(app: App) -> None:
    async def flood() -> Counter[int]:
        async with httpx.AsyncClient(base_url=app.url, headers=bearer("blue"), timeout=240, trust_env=False) as http:
            calls = [http.post("/agentcache/v1/jobs/flood") for _ in range(200)]
            turn = http.post(CHAT, json=body("in the flood"))
            codes = Counter(answer.status_code for answer in await asyncio.gather(*calls))
            assert (await turn).status_code == 200
            return codes

    codes = asyncio.run(flood())
    assert set(codes) == {200, 429}


def test_a_replay_does_not_notice_that_the_service_is_killed(app: App, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    flags = ["--engine", "http", "--url", app.url, "--output", "ignore-eos", "--json", str(out)]
    flags += ["--sessions", "8", "--max-calls", "6", "--max-ctx", "64000", "--slots", "4", "--tokens-per-block", "1"]
    command = [*AGENTCACHE, "replay", TRACE, *flags, "--time-scale", "0.05"]

    def snapshot() -> Snapshot | None:
        try:
            with SyncAgentCacheClient(app.url, token="key-red") as client:
                return client.snapshot(limit=1000)
        except AgentCacheError:
            return None  # the service is away

    def holding() -> set[tuple[str, str]]:
        """Engines, each with the contexts of which it holds something."""
        contexts = told.contexts if (told := snapshot()) else ()
        return {(copy.engine, context.id) for context in contexts for copy in context.copies}

    replay = subprocess.Popen(command, env=os.environ | {"OPENAI_API_KEY": "key-red"})
    try:
        before = holding()
        app.until(lambda: len(holding() - before) >= 2)
        (killed,) = (pid for pid, _, args in processes(app.process.pid) if args.startswith("ray::ResidencyActor"))
        assert replay.poll() is None
        os.kill(killed, signal.SIGKILL)
        app.until(lambda: not lives(killed))
        app.until(lambda: snapshot() is not None)  # it has been restarted; engines announce themselves anew
        app.until(lambda: len({engine for engine, _ in holding()}) == 2)
        assert replay.wait() == 0
    finally:
        replay.kill()
        replay.wait()
    (row,) = json.loads(out.read_text())["runs"]
    assert (row["jobs"], row["errors"]) == (8, 0) and row["cached_tokens"] > 0


def test_a_killed_replica_costs_no_request(app: App) -> None:
    """Its turns are asked again elsewhere, or end in an error that says so; the others do not notice."""
    answers: list[httpx.Response] = []
    killed = app.replicas()[0]
    family = processes(killed)
    begun: list[Any] = []
    ends: Counter[str] = Counter()

    async def stream(claude: anthropic.AsyncAnthropic, number: int) -> None:
        """A stream as the official client sees it, to its end."""
        said: Any = [{"role": "user", "content": f"{number} forever"}]
        greedy = {"temperature": 0}  # no word that ends it is drawn
        asked = claude.messages.create(
            model="tiny-llama", max_tokens=900, messages=said, stream=True, extra_body=greedy
        )
        try:
            async for event in await asked:
                begun.append(number) if event.type == "message_start" else None
            ends[event.type] += 1
        except anthropic.APIStatusError as error:
            ends["lost" if LOST in error.message else error.message] += 1

    async def turns() -> None:
        async with httpx.AsyncClient(base_url=app.url, headers=bearer("red"), timeout=240, trust_env=False) as http:

            async def turn(number: int) -> None:
                asked = body(f"{number} " * 100, max_tokens=64, ignore_eos=True)
                answers.append(await http.post(CHAT, json=asked, headers={"X-Session-ID": f"k-{number}"}))

            web = anthropic.DefaultAsyncHttpxClient(trust_env=False)
            claude = anthropic.AsyncAnthropic(base_url=app.url, api_key="key-red", max_retries=0, http_client=web)
            running = [asyncio.create_task(stream(claude, number)) for number in range(6)]
            while len(begun) < 6:
                await asyncio.wait(running, timeout=0.01)
                assert not any(task.done() and task.exception() for task in running)
            # There are more than can run, for as long as it takes to see that some of them wait.
            some_wait = asyncio.create_task(
                asyncio.to_thread(app.until, lambda: sum(app.metric("vllm:num_requests_waiting").values()) > 0)
            )
            sent = 0
            while not some_wait.done():
                while sent - len(answers) < 16:
                    running.append(asyncio.create_task(turn(sent)))
                    sent += 1
                await asyncio.wait([some_wait], timeout=0.05)
            await some_wait
            os.kill(killed, signal.SIGKILL)
            await asyncio.gather(*running)

    asyncio.run(turns())
    assert len(answers) >= 16
    assert {answer.status_code for answer in answers} == {200}
    assert ends.keys() == {"lost", "message_stop"}, ends
    again = app.http.post(CHAT, json=body("0 " * 100), headers={"X-Session-ID": "k-0"})
    assert again.status_code == 200
    app.until(lambda: not any(lives(pid) for pid, _, _ in family))
    app.until(lambda: len(app.metric("agentcache_waiting_rebuild_seconds")) == 2, START_S)


def test_a_killed_ingress_comes_back_and_knows_where_contexts_are(app: App) -> None:
    async def turns(sessions: list[str]) -> dict[str, tuple[str, int]]:
        async with httpx.AsyncClient(base_url=app.url, headers=bearer("red"), timeout=240, trust_env=False) as http:

            async def turn(session: str) -> tuple[str, int]:
                answer = await http.post(CHAT, json=body(session * 100), headers={"X-Session-ID": session})
                cached = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
                return answer.headers["x-agentcache-replica"], cached

            return dict(zip(sessions, await asyncio.gather(*map(turn, sessions)), strict=True))

    def known() -> bool:
        with SyncAgentCacheClient(app.url, token="key-red") as client:
            return set(sessions) <= {
                context.job.removeprefix("red/") for context in client.snapshot(limit=100).contexts
            }

    def serves() -> bool:
        try:
            return app.http.get("/health").status_code == 200
        except httpx.HTTPError:
            return False

    # They would all begin on one replica; at once, some go where the queue is shorter, and no name says where.
    names = sorted(app.metric("agentcache_waiting_rebuild_seconds"))
    alike = (
        one
        for one in map("i-{}".format, itertools.count())
        if affinity(f"red/{one}", names[0]) > affinity(f"red/{one}", names[1])
    )
    sessions = list(itertools.islice(alike, 12))
    homes = {session: replica for session, (replica, _) in asyncio.run(turns(sessions)).items()}
    assert set(homes.values()) == set(names)
    app.until(known)
    replicas = app.replicas()
    (killed,) = app.serving("ingress")
    os.kill(killed, signal.SIGKILL)
    app.until(lambda: not lives(killed))
    app.until(serves)
    for session in sessions:
        replica, cached = asyncio.run(turns([session]))[session]
        assert replica == homes[session] and cached > 64
    assert app.replicas() == replicas
