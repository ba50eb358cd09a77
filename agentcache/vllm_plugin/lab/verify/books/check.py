"""Many drawn programs, what they met, and the first that was wrong, made small."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from agentcache.vllm_plugin.lab.verify.books import books_run, worlds
from agentcache.vllm_plugin.lab.verify.books.worlds import InWorld
from agentcache.vllm_plugin.lab.verify.programs import shrink

TRIALS = 300
"""Shrinking stops after so many programs."""


@dataclass(slots=True)
class BooksFinding:
    """`why` the `failure` is wrong, in a sentence; both None where nothing was. `met` counts what programs met."""

    programs: int = 0
    met: Counter[str] = field(default_factory=Counter)
    why: str | None = None
    failure: InWorld | None = None

    @property
    def failures(self) -> list[str]:
        """Why this is no proof; empty if it is one."""
        if self.why:
            return [self.why]
        return [
            f"{path}: met {self.met[path]} times, fewer than {books_run.OFTEN}"
            for path in books_run.REQUIRED
            if self.met[path] < books_run.OFTEN
        ]


def why_wrong(program: InWorld) -> str | None:
    """What is wrong in a program, whatever way it shows; None if nothing is."""
    try:
        books_run.run(program)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def check(count: int, seed: int, on_program: Callable[[], None] = lambda: None, **wanted: str) -> BooksFinding:
    """Run `count` programs drawn from a seed, in worlds of which the wanted fields are given."""
    finding = BooksFinding()
    for number in range(count):
        program = worlds.draw(random.Random(f"{seed} {number}"))
        program = msgspec.structs.replace(program, world=msgspec.structs.replace(program.world, **wanted))
        finding.programs += 1
        try:
            finding.met += books_run.run(program)
        except Exception as error:
            finding.why = f"{type(error).__name__}: {error}"
            finding.failure = shrink(program, lambda smaller: why_wrong(smaller) is not None, TRIALS)
            break
        on_program()
    return finding
