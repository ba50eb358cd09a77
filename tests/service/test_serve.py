"""The whole application as `agentcache up` starts it: Serve, two vLLM replicas, HTTP, and what goes wrong with them."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("vllm", reason="the replicas are vLLM's")
pytest.importorskip("ray", reason="the application is Ray Serve's")

from agentcache.api import AgentCacheClient, SyncAgentCacheClient
from agentcache.cli.up import free_port
from agentcache.errors import InputError

pytestmark = [pytest.mark.vllm, pytest.mark.ray]

START_S = 300
CHAT = "/v1/chat/completions"
FLAGS = ["--max-model-len", "1024", "--dtype", "float32", "--enforce-eager", "--max-num-seqs", "4"]
FLAGS += ["--block-size", "32", "--num-gpu-blocks-override", "80", "--distributed-executor-backend", "uni"]
ENV = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_CI_ENV": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine's core and its worker are one process
    "VLLM_LOGGING_LEVEL": "WARNING",
}


class App:
    """The application's process, its URL, and its replicas."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process, self.url, self.log = process, url, log
        self.http = httpx.Client(base_url=url, timeout=60, trust_env=False, headers=bearer("red"))

    def replicas(self) -> list[int]:
        """Process ids of the replicas of this application."""
        return [
            pid
            for pid, _, name in processes(self.process.pid)
            if name.startswith("ray::ServeReplica:agentcache:replica")
        ]

    def until(self, true: Callable[[], Any], limit_s: float = 60) -> Any:
        deadline = time.monotonic() + limit_s
        while not (found := true()):
            if time.monotonic() > deadline or self.process.poll() is not None:
                pytest.fail(f"not within {limit_s} s; {self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.2)
        return found

    def metric(self, name: str) -> Counter[str]:
        """A metric of all replicas, by replica."""
        values: Counter[str] = Counter()
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(name + "{"):
                values[line.split('replica="')[1].split('"')[0]] += float(line.rsplit(" ", 1)[1])  # type: ignore[assignment]
        return values


def processes(root: int) -> list[tuple[int, int, str]]:
    """Process id, parent and command of all that descend from a process."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [
        (int(pid), int(parent), args) for pid, parent, args in (line.split(None, 2) for line in listed.splitlines())
    ]
    family, size = {root}, 0
    while size != len(family):
        size = len(family)
        family |= {pid for pid, parent, _ in rows if parent in family}
    return [row for row in rows if row[0] in family - {root}]


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer key-{name}"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """Two replicas of tiny-llama behind one URL, for the tenants red and blue."""
    folder = tmp_path_factory.mktemp("up")
    entries = [
        {"name": name, "tokens_sha256": [hashlib.sha256(f"key-{name}".encode()).hexdigest()], "control_per_s": per_s}
        for name, per_s in (("red", None), ("blue", 5))
    ]
    (folder / "tenants.json").write_text(json.dumps({"tenants": entries}))
    port, log = free_port(), folder / "log"
    code = "from agentcache.cli.main import main; main()"
    command = [sys.executable, "-c", code, "up", "--model", "tiny-llama", "--replicas", "2", "--port", str(port)]
    command += ["--policy", "asymcache", "--tenants", str(folder / "tenants.json"), *FLAGS]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=os.environ | ENV, stdout=out, stderr=out, start_new_session=True)
    family: list[tuple[int, int, str]] = []
    try:
        app = App(process, f"http://127.0.0.1:{port}", log)
        app.until(lambda: b"is up" in log.read_bytes(), START_S)
        yield app
        family = processes(process.pid)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        left = [row for row in family if Path(f"/proc/{row[0]}").exists()]
        for pid, _, _ in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert process.returncode == 0 and not left, left
    text = log.read_text(errors="replace")
    assert "key-red" not in text and "key-blue" not in text


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
        for session in "abcdef":
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
            contexts = client.snapshot(limit=1000).contexts
        return next((context for context in contexts if context.job == "red/known" and context.copies), None)

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
        async with httpx.AsyncClient(base_url=app.url, headers=bearer("blue"), timeout=60, trust_env=False) as http:
            calls = [http.post("/agentcache/v1/jobs/flood") for _ in range(200)]
            turn = http.post(CHAT, json=body("in the flood"))
            codes = Counter(answer.status_code for answer in await asyncio.gather(*calls))
            assert (await turn).status_code == 200
            return codes

    codes = asyncio.run(flood())
    assert set(codes) == {200, 429}


def test_a_killed_replica_costs_no_request(app: App) -> None:
    """Its turns are asked again elsewhere, or end in an error that says so; the others do not notice."""
    answers: list[httpx.Response] = []
    killed = app.replicas()[0]
    family = processes(killed)

    async def turns() -> None:
        async with httpx.AsyncClient(base_url=app.url, headers=bearer("red"), timeout=120, trust_env=False) as http:

            async def turn(number: int) -> None:
                asked = body(f"{number} " * 100, max_tokens=64, ignore_eos=True)
                answers.append(await http.post(CHAT, json=asked, headers={"X-Session-ID": f"k-{number}"}))

            running = [asyncio.create_task(turn(number)) for number in range(16)]
            await asyncio.sleep(0.3)
            os.kill(killed, signal.SIGKILL)
            await asyncio.gather(*running)

    asyncio.run(turns())
    assert Counter(answer.status_code for answer in answers) == {200: 16}
    again = app.http.post(CHAT, json=body("0 " * 100), headers={"X-Session-ID": "k-0"})
    assert again.status_code == 200
    assert not [row for row in family if Path(f"/proc/{row[0]}").exists()]
    app.until(lambda: len(app.metric("agentcache_waiting_rebuild_seconds")) == 2, START_S)
