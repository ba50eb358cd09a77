"""The suite on the next vLLM: what it is made of is there, and a release that cannot be had is said."""

from pathlib import Path
from typing import Any

import pytest

from tests.drift.test_drift import load

suite = load("suite")


def test_what_it_runs_is_there() -> None:
    assert all((suite.ROOT / "tests" / "vllm_plugin" / name).exists() for name in suite.TESTS)


def test_what_it_leaves_out_is_there() -> None:
    sources = [path.read_text() for path in (suite.ROOT / "tests" / "vllm_plugin").rglob("test_*.py")]
    for name in suite.LONG:
        assert any(name in source for source in sources), name


@pytest.mark.parametrize(("wrong", "why", "code"), [(0, None, 0), (1, None, 1), (0, "a key is wrong", 1)])
def test_either_can_fail(
    wrong: int, why: str | None, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, told in (("prepare", None), ("on_a_cpu", None), ("tests", wrong), ("model_check", why)):
        monkeypatch.setattr(suite, name, lambda *args, told=told, **kwargs: told)
    assert suite.look() == code
    assert (why or ("tests fail" if wrong else "tests pass")) in capsys.readouterr().out


def test_a_release_that_cannot_be_had_is_a_counted_skip(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(version: str) -> Path:
        raise suite.NoWheel("ERROR: no such release")

    monkeypatch.setattr(suite, "environment", none)
    assert suite.main("9.9") == 0
    assert "1 skipped: vllm==9.9 cannot be had" in capsys.readouterr().out


def test_it_runs_in_the_other_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(suite, "environment", lambda version: Path("python-of") / version)
    done = suite.subprocess.CompletedProcess((), 3)
    monkeypatch.setattr(suite.subprocess, "run", lambda command, **kwargs: ran.append(command) or done)
    assert suite.main("9.9") == 3
    assert ran[0][0] == Path("python-of/9.9") and ran[0][2] == suite.CHILD
