"""The process around a run, with small programs in the worker's place."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from agentcache.errors import ConfigError, EngineError
from agentcache_workloads.replay.engines.vllm import engine as vllm_engine
from agentcache_workloads.replay.spec import STOCK, RunSpec, Selection
from tests.waiting import until
from tests.workloads.replay.specs import run_spec


@pytest.fixture
def spec() -> RunSpec:
    return run_spec(selection=Selection(max_calls=3))


def worker(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(vllm_engine, "WORKER", [sys.executable, "-c", program])


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_messages_come_back_in_order(monkeypatch: pytest.MonkeyPatch, spec: RunSpec) -> None:
    result = '{"calls":[],"jobs":[],"evictions":null,"makespan_s":2.5,"classes":{}}'
    worker(
        monkeypatch,
        f"""
import json, sys
seed = json.load(sys.stdin)["seed"]
for n in (1, 2): print(json.dumps({{"type": "progress", "calls": n}}))
print('{{"type":"result","result":{result}}}')
""",
    )
    heard: list[int] = []
    assert vllm_engine.run(spec, heard.append).makespan_s == 2.5
    assert heard == [1, 2]


def test_the_workers_error_is_ours(monkeypatch: pytest.MonkeyPatch, spec: RunSpec) -> None:
    failed = '{"type":"failed","error":"ConfigError","message":"it is 7","hint":"take 8"}'
    worker(monkeypatch, f"import sys; sys.stdin.read(); print('{failed}')")
    with pytest.raises(ConfigError, match="it is 7") as error:
        vllm_engine.run(spec, print)
    assert error.value.hint == "take 8"


@pytest.mark.parametrize(
    "program", ["import sys; sys.stdin.read(); sys.exit('out of luck')", "raise ValueError('out of luck')"]
)
def test_a_worker_that_dies_leaves_its_last_lines(monkeypatch: pytest.MonkeyPatch, spec: RunSpec, program: str) -> None:
    worker(monkeypatch, program)
    with pytest.raises(EngineError, match="out of luck"):
        vllm_engine.run(spec, print)


def test_an_interruption_ends_the_worker(monkeypatch: pytest.MonkeyPatch, spec: RunSpec, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    worker(
        monkeypatch,
        f"""
import os, sys, time
sys.stdin.read()
open({str(pid_file)!r}, "w").write(str(os.getpid()))
print('{{"type":"progress","calls":1}}', flush=True)
time.sleep(600)
""",
    )

    def interrupt(calls: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vllm_engine.run(spec, interrupt)
    pid = int(pid_file.read_text())
    until(lambda: gone(pid))


def test_only_the_stock_row_is_without_plugins(spec: RunSpec) -> None:
    stock = vllm_engine.environment(msgspec.structs.replace(spec, policy=STOCK))
    ours = vllm_engine.environment(spec)
    assert stock.pop("VLLM_PLUGINS") == ""
    ours.pop("VLLM_PLUGINS", None)
    assert stock == ours
    assert stock["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


def test_a_spec_survives_the_pipe(spec: RunSpec) -> None:
    assert msgspec.json.decode(msgspec.json.encode(spec), type=RunSpec) == spec


def test_a_replay_imports_vllm_in_its_workers_alone() -> None:
    """It takes 10 s before the first of them starts."""
    program = """
import sys
from agentcache_workloads.replay.engines.vllm.engine import target
from agentcache_workloads.replay.spec import Options
target(Options(trace="none", model="tiny-llama"))
print("vllm" in sys.modules, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "False False\n", done.stderr
