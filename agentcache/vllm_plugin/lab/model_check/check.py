"""Many drawn programs, what they met, and the first that was wrong, made small."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from agentcache.vllm_plugin.lab.model_check import programs, rig
from agentcache.vllm_plugin.lab.model_check.programs import Program


@dataclass(slots=True)
class Finding:
    """`why` the `failure` is wrong, in a sentence; both None where nothing was. `met` counts what programs met."""

    programs: int = 0
    met: Counter[str] = field(default_factory=Counter)
    why: str | None = None
    failure: Program | None = None

    @property
    def failures(self) -> list[str]:
        """Why this is no proof; empty if it is one."""
        if self.why:
            return [self.why]
        return [
            f"{path}: met {self.met[path]} times, fewer than {rig.OFTEN}"
            for path in rig.REQUIRED
            if self.met[path] < rig.OFTEN
        ]


def why_wrong(program: Program) -> str | None:
    """What is wrong in a program, whatever way it shows; None if nothing is."""
    try:
        rig.run(program)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def check(count: int, seed: int, on_program: Callable[[], None] = lambda: None, **wanted: str) -> Finding:
    """Run `count` programs drawn from a seed, in worlds of which the wanted fields are given."""
    finding = Finding()
    for number in range(count):
        program = programs.draw(random.Random(f"{seed} {number}"))
        program = msgspec.structs.replace(program, world=msgspec.structs.replace(program.world, **wanted))
        finding.programs += 1
        try:
            finding.met += rig.run(program)
        except Exception as error:
            finding.why = f"{type(error).__name__}: {error}"
            finding.failure = programs.shrink(program, lambda smaller: why_wrong(smaller) is not None)
            break
        on_program()
    return finding
