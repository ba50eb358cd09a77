"""`agentcache doctor`: its exit codes, its findings as JSON, and what it says of an engine that does not start."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import agentcache
from agentcache.cli import doctor
from agentcache.cli.main import app

ACTIVE = {"active": True, "loaded": True, "classes": {"scheduler": "agentcache.S"}, "error": None}


def invoke(*args: str) -> Any:
    return CliRunner().invoke(app, ["doctor", *args])


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the engine is found to be; no engine is started."""
    found = dict(ACTIVE)
    monkeypatch.setattr(doctor, "_engine", lambda model: dict(found))
    monkeypatch.setattr(doctor, "_refusals", lambda: {"speculative decoding": "it writes slots"})
    return found


def test_an_active_engine_is_exit_0(engine: dict[str, Any], tmp_path: Path) -> None:
    done = invoke("--json", str(tmp_path / "found.json"))
    assert done.exit_code == 0
    assert "AgentCache is active" in done.stdout
    assert "speculative decoding: it writes slots" in done.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["schema"] == "agentcache-doctor/1"
    assert found["versions"]["agentcache"] == agentcache.__version__
    assert found["entry_point"] is True
    assert found["classes"] == ACTIVE["classes"]
    assert found["refused"] == {"speculative decoding": "it writes slots"}


def test_an_engine_without_agentcache_is_exit_1(engine: dict[str, Any]) -> None:
    engine.update(active=False, loaded=False, classes={"scheduler": "vllm.S"})
    done = invoke()
    assert done.exit_code == 1
    assert "AgentCache is NOT active" in done.stdout
    assert "vllm.S" in done.stdout


def test_an_engine_that_does_not_start_says_why(engine: dict[str, Any]) -> None:
    engine.update(active=False, loaded=False, classes={}, error="Unsupported: [two] KV groups")
    done = invoke()
    assert done.exit_code == 1
    assert "The engine did not start:\nUnsupported: [two] KV groups" in done.stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [(("--model", "/nowhere"), "no model folder"), (("--json", "/nowhere/found.json"), "cannot be written")],
)
def test_bad_input_is_exit_2_and_starts_nothing(
    args: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: pytest.fail("an engine was started"))
    done = invoke(*args)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert says in done.stderr


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (subprocess.TimeoutExpired("engine", 300), "not up after 300 s"),
        (
            subprocess.CompletedProcess([], 1, "", "Traceback\n\n  at x\nUnsupported: two groups\nhint: y\n"),
            "two groups",
        ),
    ],
)
def test_whatever_the_engine_does_there_is_a_finding(
    outcome: Any, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*args: Any, **kwargs: Any) -> Any:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(doctor.subprocess, "run", run)
    monkeypatch.setattr(doctor, "_refusals", dict)
    (tmp_path / "config.json").write_text("{}")
    done = invoke("--model", str(tmp_path))
    assert done.exit_code == 1
    assert "The engine did not start:" in done.stdout
    assert says in done.stdout


@pytest.mark.vllm
def test_it_is_active_here(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="the engine is vLLM's")
    done = invoke("--json", str(tmp_path / "found.json"))
    assert done.exit_code == 0, done.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["active"] and found["loaded"]
    assert "vllm" in " ".join(name for name, number in found["versions"].items() if number)
    assert "prefix caching off" in found["refused"]
