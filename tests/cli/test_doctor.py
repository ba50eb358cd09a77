"""`agentcache doctor`: its exit codes, its findings as JSON, and what it says of an engine that does not start."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import agentcache
from agentcache.cli import child, doctor
from agentcache.cli.main import app
from tests import forked

ACTIVE = {"active": True, "loaded": True, "classes": {"scheduler": "agentcache.S"}, "error": None}

BIG = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 16,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 32000,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
    "torch_dtype": "bfloat16",
}


def judged(level: str | None, mode: str | None, **more: str | None) -> dict[str, str | None]:
    return {"level": level, "mode": mode, "rule": None, "why": None, "hint": None, **more}


def invoke(*args: str) -> Any:
    return CliRunner().invoke(app, ["doctor", *args])


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the engine is found to be; no engine is started."""
    found = dict(ACTIVE)
    monkeypatch.setattr(doctor, "_engine", lambda: dict(found))
    monkeypatch.setattr(doctor, "_rules", lambda: [{"rule": "drafts", "level": "order", "why": "they write slots"}])
    return found


def test_an_active_engine_is_exit_0(engine: dict[str, Any], tmp_path: Path) -> None:
    done = invoke("--json", str(tmp_path / "found.json"))
    assert done.exit_code == 0
    assert "AgentCache is active" in done.stdout
    assert "order: drafts: they write slots" in done.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["schema"] == "agentcache-doctor/1"
    assert found["versions"]["agentcache"] == agentcache.__version__
    assert found["entry_point"] is True
    assert found["classes"] == ACTIVE["classes"]
    assert found["rules"] == [{"rule": "drafts", "level": "order", "why": "they write slots"}]


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
    [
        (("--model", "/nowhere"), "no model folder"),
        (("--json", "/nowhere/found.json"), "cannot be written"),
        (("--kv-cache-dtype", "fp8"), "without a model"),
        (("--model", "tiny-llama", "--scheduler-cls", "x.Y"), "contradicts"),
    ],
)
def test_bad_input_is_exit_2_and_starts_nothing(
    args: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child.subprocess, "run", lambda *_, **__: pytest.fail("an engine was started"))
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

    monkeypatch.setattr(child.subprocess, "run", run)
    monkeypatch.setattr(doctor, "_rules", list)
    (tmp_path / "config.json").write_text("{}")
    done = invoke("--model", str(tmp_path))
    assert done.exit_code == 1
    assert "The engine did not start:" in done.stdout
    assert f"{tmp_path} is not started: vLLM could not build it here: " in done.stdout
    assert " ".join(done.stdout.split()).count(says) == 2  # a table breaks lines where it must


@pytest.mark.parametrize(
    ("verdict", "code", "says"),
    [
        (judged("holes", "fused"), 0, "m is served at level holes in fused mode."),
        (
            judged("holes", "sequential", why="two [positions]"),
            0,
            "m is served at level holes in sequential mode: two [positions].",
        ),
        (
            judged("order", "stock", rule="MLA", why="it has MLA, and so on"),
            0,
            "m is served at level order by the rule 'MLA': it has MLA, and so on.",
        ),
        (judged("off", "stock", rule="none", why="nothing is kept"), 1, "m is served at level off by the rule 'none':"),
        (judged(None, None, why="no such profile", hint="x"), 1, "m is not started: no such profile.\nhint: x"),
        (
            judged(None, "stock", rule="MLA", why="it has MLA, and so on"),
            1,
            "m is left to stock prefix caching by the rule 'MLA': it has MLA, and so on.",
        ),
    ],
)
def test_a_model_is_served_at_a_level_by_a_rule(
    verdict: dict[str, Any],
    code: int,
    says: str,
    engine: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = []
    monkeypatch.setattr(doctor, "_model", lambda model, flags: "/m")
    monkeypatch.setattr(doctor, "_judged", lambda model, flags: given.append((model, flags)) or verdict)
    done = invoke("--model", "m", "--json", str(tmp_path / "found.json"), "--kv-cache-dtype", "fp8")
    assert done.exit_code == code
    assert says in done.stdout
    assert given == [("/m", ["--kv-cache-dtype", "fp8"])]
    assert json.loads((tmp_path / "found.json").read_text())["model"] == {"name": "m", **verdict}


@pytest.mark.vllm
@pytest.mark.usefixtures("imported")
def test_it_is_active_here_and_serves_a_sliding_window(tmp_path: Path) -> None:
    """One tiny engine, and a large model of which there are no weights."""
    pytest.importorskip("vllm", reason="the engine is vLLM's")
    folder = tmp_path / "big"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(BIG))
    done = invoke("--json", str(tmp_path / "found.json"), "--model", str(folder))
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["active"] and found["loaded"], done.stdout
    assert "vllm" in " ".join(name for name, number in found["versions"].items() if number)
    assert found["level"] == "holes"
    assert {"prefix caching off", "MLA"} <= {rule["rule"] for rule in found["rules"]}
    assert found["model"]["level"] == "order"
    assert found["model"]["rule"] == "not one full-attention group"
    assert found["model"]["why"].startswith("layers see a sliding window of 4096 tokens, and ")
    assert done.exit_code == 0


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that judges a model has vLLM imported; one that starts an engine starts anew, as `doctor` does it."""
    anew = child.subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        return forked.run(*command[1:]) if command[3:] else anew(command, **options)

    monkeypatch.setattr(child.subprocess, "run", run)


@pytest.mark.vllm
@pytest.mark.usefixtures("imported")
def test_a_model_is_judged_with_its_flags(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="the engine is vLLM's")
    (tmp_path / "config.json").write_text(json.dumps(BIG | {"sliding_window": None}))
    sequential = json.dumps({"agentcache": {"mode": "sequential"}})
    found = doctor._judged(str(tmp_path), ["--port", "80", "--additional-config", sequential])
    assert found == judged("holes", "sequential", why="it was asked for")


@pytest.mark.vllm
@pytest.mark.usefixtures("imported")
def test_a_model_is_judged_by_what_a_start_does(tmp_path: Path) -> None:
    """A family with other names for its sizes, whose layers compute while they are built; and its prices."""
    pytest.importorskip("vllm", reason="the engine is vLLM's")
    from agentcache.cost import CostProfile
    from tests.vllm_plugin.families.otherwise import build

    folder = build("bloom", tmp_path / "bloom", weights=False)
    assert doctor._judged(folder, [])["mode"] == "fused"
    CostProfile(c_lin=1e-5, c_att=1e-9, model="another", n_points=20).save(tmp_path / "profile.json")
    options = {"profile": str(tmp_path / "profile.json")}
    found = doctor._judged(folder, ["--additional-config", json.dumps({"agentcache": options})])
    assert found["level"] is None
    assert found["why"].startswith("the cost profile was measured with model another, the engine runs bloom")


@pytest.mark.vllm
@pytest.mark.usefixtures("imported")
def test_a_model_that_may_be_left_to_stock_is(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="the engine is vLLM's")
    (tmp_path / "config.json").write_text(json.dumps(BIG))
    stock = json.dumps({"agentcache": {"on_unsupported": "stock"}})
    found = doctor._judged(str(tmp_path), ["--additional-config", stock])
    assert (found["mode"], found["rule"]) == ("stock", "not one full-attention group")
