"""`agentcache up`: what it would start, and what it refuses before anything is started."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentcache.cli.main import app
from agentcache.cli.up import engine_kwargs

pytest.importorskip("vllm", reason="the replicas are vLLM's")
pytest.importorskip("ray", reason="the application is Ray Serve's")


def invoke(*args: str) -> Any:
    return CliRunner().invoke(app, ["up", *args])


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text("{}")
    return str(tmp_path)


def test_print_config_is_what_serve_run_takes(model: str) -> None:
    done = invoke(
        "--model", model, "--replicas", "3", "--policy", "asymcache", "--print-config", "--max-model-len", "64"
    )
    assert done.exit_code == 0, done.stderr
    shown = json.loads(done.stdout)
    options = {"host": "127.0.0.1", "port": 8000, "keep_alive_timeout_s": 600}
    assert shown["http_options"] == options
    (application,) = shown["applications"]
    assert application["import_path"] == "agentcache.service:build_app"
    args = application["args"]
    assert (args["replicas"], args["agentcache"]) == (3, {"policy": "asymcache"})
    assert args["residency"] == {"policy": "asymcache"}
    assert args["engine_kwargs"]["max_model_len"] == "64"
    assert args["engine_kwargs"]["served_model_name"] == model

    from agentcache.service import build_app

    assert build_app(args) is not None


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--policy", "asymcash"), "known policies"),
        (("--admission", "best"), "is unknown"),
        (("--router", "random"), "random"),
        (("-tp", "2"), "long form"),
        (("--tenants", "/nowhere.json"), "cannot be used"),
        (("--replicas", "0"), "replicas"),
        (("--scheduler-cls", "x.Y"), "--scheduler-cls contradicts"),
    ],
)
def test_bad_input_starts_nothing(
    model: str, args: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    done = invoke("--model", model, *args)
    assert done.exit_code == 2
    assert says in done.stderr


def test_flags_become_engine_arguments() -> None:
    flags = "--max-model-len 64 --enforce-eager --dtype=float32 --served-model-name a b --no-enable-x --seed -1"
    assert engine_kwargs(flags.split(" ")) == {
        "max_model_len": "64",
        "enforce_eager": True,
        "dtype": "float32",
        "served_model_name": ["a", "b"],
        "no_enable_x": True,
        "seed": "-1",
    }
