"""Ten drawn cells of the table through the model check: with those groups and flags, nothing is wrong at that level.

The groups are those of the architecture, of blocks, windows and chunks small enough for programs of a few dozen steps.
"""

import random
from collections import Counter
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the scheduler is vLLM's")

from agentcache.vllm_plugin.lab.verify.books import books_run, worlds
from agentcache.vllm_plugin.lab.verify.books.worlds import World
from agentcache.vllm_plugin.lab.verify.programs import Budget, Op
from agentcache.vllm_plugin.lab.verify.rig import Wrong
from tests.levels.test_table import TOLD, table
from tests.vllm_plugin.lab.verify.books.group_mutations import MUTATIONS

SMALL = {
    "full_attention": "full",
    "mla_attention": "mla",
    "sliding_window": "window 9",
    "chunked_local_attention": "chunk 8",
    "mamba": "state",
}
AHEAD = {"PP 2": 2}
"""Steps under way at once: as many as there are stages."""

LEAST = {"no chunked prefill": 64}
"""Of a step's tokens: with fewer vLLM itself starts no prompt."""

FLAGS = table.FLAGS | {"DCP 2": ("--tensor-parallel-size", "4", "--decode-context-parallel-size", "2")}
"""The small model has two KV heads, and context is sharded over more ranks than that."""

UNTRIED = {"n-gram", "MTP", "offloading", "P/D"}
"""Columns whose work the device does not do: it drafts nothing, and moves nothing to other memory."""

PROGRAMS = 8


def cells() -> list[tuple[str, str]]:
    """All that can be tried: names of an architecture and of a column."""
    found = []
    for name, row in TOLD["rows"].items():
        attends = set(row.get("groups", ())) & {"full_attention", "mla_attention", "sliding_window"}
        if attends and set(row["groups"]) <= SMALL.keys():  # states alone: vLLM switches prefix caching off
            found += [(name, flag) for flag, cell in row["cells"].items() if cell["level"] and flag not in UNTRIED]
    return found


def drawn() -> list[tuple[str, str]]:
    """Ten cells: one for each column first, and no set of groups twice before each was there."""
    rng, left = random.Random(18), cells()
    chosen: list[tuple[str, str]] = []
    seen: Counter[Any] = Counter()
    while len(chosen) < 10:
        rng.shuffle(left)
        left.sort(key=lambda cell: seen[cell[1]] + seen[_groups(cell[0])])
        cell = left.pop(0)
        chosen.append(cell)
        seen.update((cell[1], _groups(cell[0])))
    return chosen


def _groups(name: str) -> tuple[str, ...]:
    return tuple(sorted(set(TOLD["rows"][name]["groups"])))


def world(name: str, flag: str) -> World:
    groups = tuple(SMALL[kind] for kind in TOLD["rows"][name]["groups"])
    return World(
        depth=AHEAD.get(flag, 1),
        pool=14 * len(groups),
        admission="working-set",
        groups=groups,
        level="",
        flags=FLAGS[flag],
    )


def tried(name: str, flag: str, programs: int = PROGRAMS) -> Counter[str]:
    """What drawn programs met in the world of a cell."""
    where = world(name, flag)
    met: Counter[str] = Counter()
    for number in range(programs):
        program = worlds.draw(random.Random(f"{name} {flag} {number}"), where)
        rig = books_run.BooksRun(where)
        assert str(rig.host.level) == TOLD["rows"][name]["cells"][flag]["level"]
        rig.run(_roomy(op, LEAST.get(flag, 0)) for op in program.ops)
        met += rig.met
    return met


def _roomy(op: Op, least: int) -> Op:
    return Budget(max(op.tokens, least), 0) if isinstance(op, Budget) and least else op


@pytest.mark.parametrize(("name", "flag"), drawn(), ids=lambda part: part.replace(" ", "-"))
def test_nothing_is_wrong(name: str, flag: str) -> None:
    met = tried(name, flag)
    print(f"{name}, {flag}: {dict(met)}")
    assert met["answers"] > 30 and met["preemptions"]
    level = TOLD["rows"][name]["cells"][flag]["level"]
    assert level == "off" or met[f"reused at level {level}"] > 5
    assert flag not in AHEAD or met[f"depth {AHEAD[flag]}"] > 50


@pytest.mark.parametrize(
    ("name", "flag", "mutation"),
    [
        ("Qwen3-Next", "plain", "the state of a block before"),
        ("Jamba", "PP 2", "a state freed before it is copied"),
        ("Llama 4", "TP 2", "a block of the chunk freed"),
        ("Gemma 3", "PP 2", "a block of the window freed"),
        ("gpt-oss", "no chunked prefill", "a window taken for one block"),
    ],
)
def test_what_is_made_wrong_is_found(name: str, flag: str, mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS[mutation][1](monkeypatch)
    with pytest.raises(Wrong) as found:
        tried(name, flag, programs=60)
    print(f"{name}, {flag}: {mutation}: {found.value}")
