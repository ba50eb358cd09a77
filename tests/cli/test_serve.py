"""`agentcache serve`: what it refuses before vLLM starts, what it starts, and the server itself."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from agentcache.cli.main import app
from agentcache.files import free_port

pytest.importorskip("vllm", reason="the server is vLLM's")

from prometheus_client.parser import text_string_to_metric_families

from agentcache.vllm_plugin.accounts.metrics import METRICS
from tests.command import AGENTCACHE

START_S = 300


def invoke(*args: str) -> Any:
    return CliRunner().invoke(app, ["serve", *args])


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text("{}")
    return str(tmp_path)


def test_print_config_shows_what_would_run(model: str) -> None:
    done = invoke(model, "--policy", "asymcache:p=0.4", "--max-model-len", "64", "--print-config", "-tp", "2")
    assert done.exit_code == 0
    shown = json.loads(done.stdout)
    assert shown["additional_config"] == {"agentcache": {"policy": "asymcache:p=0.4"}}
    assert shown["argv"][3:5] == ["--model", model]
    assert shown["argv"][shown["argv"].index("--served-model-name") + 1] == model
    assert shown["argv"][-4:] == ["--max-model-len", "64", "-tp", "2"]


def test_the_process_becomes_the_server(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    started: list[Any] = []
    monkeypatch.setattr(os, "execv", lambda path, argv: started.append((path, argv)))
    assert invoke(model, "--port", "8123").exit_code == 0
    ((path, argv),) = started
    assert path == argv[0] == sys.executable
    assert argv[-2:] == ["--port", "8123"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--policy", "asymcash"), "known policies"),
        (("--policy", "lru:p=1"), "no option 'p'"),
        (("--policy", "asymcache:p=much"), "expected a finite number"),
        (("--mode", "quick"), "quick"),
        (("--admission", "program:x=1"), "no option 'x'"),
        (("--admission", "best"), "is unknown"),
        (("--profile", "/nowhere.json"), "cannot be read"),
        (("--chunking", "quick"), "is unknown"),
        (("--scheduler-cls", "x.Y"), "--scheduler-cls contradicts"),
        (("--level", "all"), "Invalid enum value 'all'"),
        (("--additional-config", "{"), "expected a JSON object"),
        (("--host-memory", "0"), "expected more than 0"),
        (("--host-memory", "1000000"), "of memory are free here"),
        (("--host-memory", "0.1", "--kv-transfer-config", "{}"), "keeps blocks below the pool itself"),
        (("--host-memory", "0.1", "--kv-transfer-config.kv_role=kv_both"), "keeps blocks below the pool itself"),
        (("--host-memory", "0.1", "--host-policy", "asymcash"), "known policies"),
        (("--additional-config", '{"agentcache": {"polcy": "lru"}}'), "unknown keys polcy"),
        (("--additional-config", '{"agentcache": {"policy": "asymcash"}}'), "known policies"),
    ],
)
def test_bad_input_is_a_sentence_and_starts_nothing(
    model: str, args: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("vLLM was started"))
    done = invoke(model, *args)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert says in done.stderr
    assert "error: " in done.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("/nowhere/model",), "no model folder"),
        (("tiny-lama",), "tiny-llama, tiny-qwen3"),
        (("--max-model-len", "64", "tiny-llama"), "put the model first"),
    ],
)
def test_a_model_that_is_none_starts_nothing(args: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("vLLM was started"))
    done = invoke(*args)
    assert done.exit_code == 2
    assert says in done.stderr


BOTH = {"kv_role": "kv_both"}
LAZY = json.dumps(
    BOTH | {"kv_connector": "SimpleCPUOffloadConnector", "kv_connector_extra_config": {"lazy_offload": True}}
)
PINS = json.dumps(BOTH | {"kv_connector": "Pins", "kv_connector_module_path": "pins"})
THEIR_CONNECTOR = """
from vllm.distributed.kv_transfer.kv_connector.v1.example_connector import ExampleConnector

class Pins(ExampleConnector):
    pass
"""


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("tiny-gemma3", "--level", "holes"), "level holes cannot be had here, order can: the model has 6 KV groups"),
        (("tiny-llama", "--level", "order", "--kv-transfer-config", LAZY), "order cannot be had here, admit can: lazy"),
        (
            ("tiny-llama", "--level", "order", "--kv-transfer-config", PINS),
            "admit can: KV connector Pins does not come",
        ),
        (
            ("tiny-llama", "--level", "admit", "--no-enable-prefix-caching"),
            "level admit cannot be had here, off can: prefix caching is off",
        ),
        (
            ("tiny-gemma3", "--additional-config", '{"agentcache": {"on_unsupported": "refuse"}}'),
            "level holes cannot be had here",
        ),
    ],
    ids=["windows", "its own order", "pins blocks", "nothing cached", "nothing else will do"],
)
def test_a_level_that_cannot_be_had_is_a_sentence(
    args: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pins.py").write_text(THEIR_CONNECTOR)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("vLLM was started"))
    done = invoke(*args)
    assert done.exit_code == 2, done.stderr
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 2  # the sentence, and what to do


THEIRS = """
from vllm.platforms import current_platform
from vllm.v1.core.sched.scheduler import Scheduler

class Theirs(Scheduler):
    pass

def register():
    platform = type(current_platform)
    stock = platform.check_and_update_config.__func__

    def check_and_update_config(cls, config):
        stock(cls, config)
        config.scheduler_config.scheduler_cls = "theirs.Theirs"

    platform.check_and_update_config = classmethod(check_and_update_config)
"""


@pytest.mark.vllm
def test_two_plug_ins_that_both_replace_the_scheduler_are_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("vLLM was started"))
    (tmp_path / "theirs.py").write_text(THEIRS)
    (told := tmp_path / "theirs-1.0.dist-info").mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text("[vllm.general_plugins]\ntheirs = theirs:register\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = invoke("tiny-llama", "--level", "admit")
    assert done.exit_code == 2, done.stderr
    assert "level admit cannot be had here, off can: the scheduler is theirs.Theirs" in done.stderr


@pytest.mark.vllm
def test_a_level_that_can_be_had_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    started: list[Any] = []
    monkeypatch.setattr(os, "execv", lambda path, argv: started.append(argv))
    assert invoke("tiny-gemma3", "--level", "order").exit_code == 0
    assert len(started) == 1


def test_a_hub_name_is_vllms_to_find() -> None:
    done = invoke("meta-llama/Llama-3.1-8B", "--print-config")
    assert json.loads(done.stdout)["argv"][3:5] == ["--model", "meta-llama/Llama-3.1-8B"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server on tiny-llama; its whole process group is gone afterwards."""
    port = free_port()
    log = tmp_path_factory.mktemp("server") / "log"
    flags = ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "1024", "--dtype", "float32"]
    flags += ["--enforce-eager", "--max-num-seqs", "4", "--block-size", "32"]
    flags += ["--num-gpu-blocks-override", "40"]  # four of the prompts below fit
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*AGENTCACHE, "serve", "tiny-llama", "--policy", "asymcache", *flags],
            env=os.environ | {"VLLM_CPU_CI_ENV": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=240, trust_env=False) as client:
            wait_until_healthy(client, process, log)
            yield client
        process.send_signal(signal.SIGINT)
        process.wait(timeout=240)
    finally:
        with suppress(ProcessLookupError):  # the group is empty, as it should be
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_healthy(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    pytest.fail(f"no server: {log.read_text(errors='replace')[-3000:]}")


@pytest.mark.vllm
def test_it_answers_to_what_was_typed(server: httpx.Client) -> None:
    assert [model["id"] for model in server.get("/v1/models").json()["data"]] == ["tiny-llama"]


@pytest.mark.vllm
def test_an_agents_chat_reaches_the_model_whole(server: httpx.Client) -> None:
    tool = {"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}
    call = {"id": "c1", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "a b"},
    ]
    body = {"model": "tiny-llama", "messages": messages, "tools": [tool], "return_token_strs": True}
    answer = server.post("/tokenize", json=body)
    assert answer.status_code == 200, answer.text
    text = server.post("/detokenize", json={"model": "tiny-llama", "tokens": answer.json()["tokens"]}).json()["prompt"]
    assert "tools: [" in text
    assert '"name": "bash"' in text
    assert '"arguments": {"command": "ls"}}</tool_call>\ntool c1: a b\nassistant: ' in text


@pytest.mark.vllm
def test_a_second_turn_of_a_job_meets_its_context(server: httpx.Client) -> None:
    prompt = [5 + i % 400 for i in range(300)]
    body = {"model": server.get("/v1/models").json()["data"][0]["id"], "temperature": 0, "max_tokens": 8}
    hints = {"job_id": "job-1", "this_func_call": "bash", "is_last_step": 0}
    usages = []
    texts = []
    for turn in range(2):
        answer = server.post(
            "/v1/completions", json={**body, "prompt": prompt, "vllm_xargs": hints | {"is_last_step": turn}}
        )
        assert answer.status_code == 200, answer.text
        usages.append(answer.json()["usage"])
        texts.append(answer.json()["choices"][0]["text"])
    assert usages[1]["prompt_tokens"] == 300
    assert usages[1]["prompt_tokens_details"]["cached_tokens"] == 288  # nine whole blocks of 32
    assert texts[0] == texts[1]


@pytest.mark.vllm
def test_no_hint_is_required(server: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "list the files"}], "max_tokens": 4}
    answer = server.post(
        "/v1/chat/completions", json={**body, "model": server.get("/v1/models").json()["data"][0]["id"]}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 4


@pytest.mark.vllm
def test_a_context_that_can_never_fit_is_the_clients_error(server: httpx.Client) -> None:
    model = server.get("/v1/models").json()["data"][0]["id"]
    answer = server.post("/v1/completions", json={"model": model, "prompt": [7] * 1100, "max_tokens": 4})
    assert answer.status_code == 400
    assert "1024" in answer.json()["error"]["message"]


def scrape(server: httpx.Client) -> Counter[str]:
    """All series of /metrics, added up by name and by name with each label."""
    sums: Counter[str] = Counter()
    for family in text_string_to_metric_families(server.get("/metrics").text):
        for sample in family.samples:
            sums[sample.name] += sample.value
            for label, value in sample.labels.items():
                sums[f"{sample.name}{{{label}={value}}}"] += sample.value
    return sums


@pytest.mark.vllm
def test_metrics_and_usage_count_blocks_behind_holes_alike(server: httpx.Client) -> None:
    rng = random.Random(5)
    documents = [[rng.randrange(3, 500) for _ in range(320)] for _ in range(6)]
    model = server.get("/v1/models").json()["data"][0]["id"]
    before = scrape(server)
    usages, texts = [], {}
    for number in [0, 1, 2, 3, 4, 5, 2, 0, 3, 1, 4, 0, 5, 2, 1, 3, 0, 4]:
        body = {"model": model, "temperature": 0, "max_tokens": 4, "prompt": documents[number]}
        hints = {"job_id": f"document-{number}", "this_func_call": "ls", "last_func_call": "a\nb"}  # one is malformed
        answer = server.post("/v1/completions", json=body | {"vllm_xargs": hints}).json()
        usages.append(answer["usage"])
        assert texts.setdefault(number, answer["choices"][0]["text"]) == answer["choices"][0]["text"]
    after = scrape(server)
    after.subtract(before)
    prompt = sum(usage["prompt_tokens"] for usage in usages)
    cached = sum((usage["prompt_tokens_details"] or {"cached_tokens": 0})["cached_tokens"] for usage in usages)
    assert after["agentcache_reused_tokens_total{place=after_hole}"] > 0
    assert after["agentcache_reused_tokens_total"] == cached
    assert after["vllm:prefix_cache_hits_total"] == cached
    assert after["vllm:prompt_tokens_cached_total"] == cached
    assert after["vllm:request_prefill_kv_computed_tokens_sum"] == prompt - cached
    assert after["agentcache_rebuilt_tokens_total"] == prompt - cached
    assert after["agentcache_rebuilt_tokens_total{cause=hole}"] > 0
    assert after["agentcache_turns_total"] == after["agentcache_holes_per_turn_count"] == len(usages)
    assert after["agentcache_turns_total{after=start}"] == after["agentcache_jobs_started_total"] == len(documents)
    assert after["agentcache_turns_total{after=tool}"] == after["agentcache_pause_seconds_count"] == 12
    assert after["agentcache_hints_total{outcome=rejected}"] == len(usages)
    assert after["agentcache_hints_total{outcome=accepted}"] == 2 * len(usages)
    assert after["agentcache_evicted_blocks_total{reason=capacity}"] > 0
    now = scrape(server)
    assert now["agentcache_resident_tokens"] == 39 * 32
    assert now["agentcache_resident_tokens{state=running}"] == 0
    assert now["agentcache_build_info{mode=fused}"] == now["agentcache_policy_active{policy=asymcache}"] == 1
    listed = {name.removesuffix("_total") for name in METRICS}
    families = text_string_to_metric_families(server.get("/metrics").text)
    assert {f.name for f in families if f.name.startswith("agentcache") and not f.name.endswith("_created")} <= listed
