"""A replay that is interrupted and resumed, as users do it: the command in a process of its own."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agentcache.errors import ConfigError
from agentcache_workloads.replay.accounts.saved import keep, load_saved, stopped_path
from tests.command import AGENTCACHE
from tests.waiting import until
from tests.workloads.replay.stub_server import StubServer, running


def command(tiny: Path, url: str, out: Path, *more: object) -> list[str]:
    flags = ["--engine", "http", "--url", url, "--vocab-size", 512, "--tokens-per-block", 1, "--sessions", 3]
    limits = ["--max-calls", 2, "--slots", 1, "--time-scale", 0, "--seeds", "1,2", "--json", out, "--resume"]
    return [*AGENTCACHE, "replay", *map(str, (tiny, *flags, *limits, *more))]


def test_ctrl_c_writes_what_is_done_and_resume_goes_on(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    # Of 2 seeds x 6 calls, the second one of the second seed's second job waits to be interrupted.
    stub = StubServer(lambda body, number: ("serve", 0.0 if number < 9 else 60.0))
    with running(stub) as url:
        process = subprocess.Popen(command(tiny, url, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        until(lambda: len(stub.requests) == 10 or process.poll() is not None)
        os.kill(process.pid, signal.SIGINT)
        said, errors = process.communicate(timeout=240)
        assert process.returncode == 130, errors
        assert "--resume goes on" in said
        first: dict[str, Any] = json.loads(out.read_text())
        assert [(run["seed"], run["interrupted"], run["jobs"]) for run in first["runs"]] == [
            (1, False, 3),
            (2, True, 1),
        ]
        assert stopped_path(out).exists()
        stub.behave = lambda body, number: ("serve", 0.0)
        before = len(stub.requests)
        done = subprocess.run(command(tiny, url, out), capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        assert len(stub.requests) - before == 4  # two jobs of the second seed
        second = json.loads(out.read_text())
        assert second["runs"][0] == first["runs"][0]
        assert [(run["seed"], run["interrupted"], run["jobs"]) for run in second["runs"]] == [
            (1, False, 3),
            (2, False, 3),
        ]
        assert second["runs"][1]["client"]["parts"] == 2
        assert not stopped_path(out).exists()
        # The server says what it is and how big its pool is.
        assert {(run["policy"], run["cache_tokens"]) for run in second["runs"]} == {("vllm-lru", 12800)}
        other = subprocess.run(
            command(tiny, url, out, "--output", "ignore-eos"), capture_output=True, text=True, timeout=240
        )
        assert other.returncode == 2
        assert "would not make" in other.stderr


def test_only_a_result_can_be_resumed(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    assert load_saved(path, ["a"]) == ({}, None)
    for text in ("{", "[]", '{"runs": [{}]}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match="holds no result of a replay"):
            load_saved(path, ["a"])
    path.write_text('{"runs": [{"run": "a"}, {"run": "b", "interrupted": true}]}')
    stopped_path(path).write_text("nonsense")
    assert load_saved(path, ["a", "b"]) == ({"a": {"run": "a"}}, None)
    keep(path, None)
    assert not stopped_path(path).exists()
