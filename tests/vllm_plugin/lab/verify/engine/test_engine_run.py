"""Cases on real engines: every path is walked and exact, and what is wrong is found, made small and seen again."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentcache.cli.main import app
from agentcache.errors import EngineError
from agentcache.vllm_plugin.lab.verify.engine.cases import Case, Setting
from agentcache.vllm_plugin.lab.verify.engine.child import Child
from agentcache.vllm_plugin.lab.verify.engine.paths import REQUIRED, REQUIRED_SHARED, reproducer
from agentcache.vllm_plugin.lab.verify.programs import Budget, Corrupt, Drain, Evict, Step, Submit

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm", reason="the engines are vLLM's")


def test_every_path_is_walked_and_exact(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    engines = ["--model", "tiny-llama", "--dtype", "float32", "--mode", "fused", "--attention", "default"]
    flags = ["--patterns", "12", "--seed", "3", "--jobs", "2", "--json", str(out)]
    done = CliRunner().invoke(app, ["verify", "--paths", "all", *engines, *flags])
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text())
    assert (result["mismatches"], result["bit_differences"], result["failures"]) == (0, 0, [])
    assert all(result["paths"][path] > 0 for path in (*REQUIRED, *REQUIRED_SHARED))
    assert [row["setting"]["scheduler"] for row in result["settings"]] == ["sync", "async", "async", "sync"]
    *alone, shared = result["settings"]
    assert [row["stock"] for row in alone] == [None, None, None]
    assert [row["outcome"]["loaded_tokens"] > 0 for row in alone] == [False, False, True]
    assert shared["stock"]["outcome"]["paths"]["keys withdrawn in the step that gave them"] > 0
    assert result["stock_patterns"] == shared["cases"]
    assert all(row["negative_control_failed"] and row["outcome"]["tokens_after_hole"] for row in result["settings"])


def test_an_engine_of_the_second_runner_starts_and_is_exact() -> None:
    """Its kernels are interpreted, which is settled before vLLM is loaded."""
    case = Case((Budget(64), Submit(1), Drain(), Evict(0.5, 1), Submit(1), Drain()))
    with Child(Setting("tiny-llama", "float32", runner="v2")) as child:
        outcome = child.run(case)
    assert outcome.tokens > 0 and not outcome.mismatches and not outcome.fault


def test_an_engine_that_does_not_start_says_why() -> None:
    with Child(Setting("no-such-folder", "float32")) as child, pytest.raises(EngineError, match="no-such-folder' is"):
        child.run(Case((Drain(),)))


def test_a_wrong_answer_is_made_small_and_seen_again(tmp_path: Path) -> None:
    asked = Submit(3, samples=2, salt="a")
    case = Case((Budget(64), Submit(5), asked, Step(2), Drain(), Evict(0.1, 1), Corrupt(), Submit(1), asked, Drain()))
    with Child(Setting("tiny-llama", "float32")) as child:
        small = reproducer(child, case, [])
        assert child.starts == 1, "a wrong answer does not break an engine"
    assert small.before == ()
    assert [type(op) for op in small.case.ops] == [Submit, Drain, Corrupt, Submit, Drain]

    file = tmp_path / "case.json"
    file.write_text(small.json)
    done = CliRunner().invoke(app, ["verify", "--reproduce", str(file)])
    assert done.exit_code == 1
    assert "NOT EXACT: " in done.stdout
