"""Levels, and what a rule about them is: a reason for a lower one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class Level(IntEnum):
    """What runs; each level has all of those below it.

    `OFF`: identity and receipts, nobody is held, vLLM's own order. `ADMIT`: admission. `ORDER`: our order of eviction,
    over the pool of all KV groups; look-up and allocation are vLLM's own. `HOLES`: reuse behind holes.
    """

    OFF = 0
    ADMIT = 1
    ORDER = 2
    HOLES = 3

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Setup:
    """What rules look at: vLLM's configuration, the KV groups of the model, and the tokens under one block hash.

    `scheduler`: as vLLM has built it, where there is one.
    """

    config: Any
    groups: Sequence[Any]
    hash_block_size: int
    scheduler: Any = None

    @classmethod
    def of(cls, scheduler: Any) -> "Setup":
        """Of a scheduler as vLLM has built it."""
        groups = scheduler.kv_cache_config.kv_cache_groups
        return cls(scheduler.vllm_config, groups, scheduler.hash_block_size, scheduler)


@dataclass(frozen=True, slots=True)
class Rule:
    """A reason for a lower level. `value(setup)` is what was found, in words, or None where the rule does not apply.

    `leaves`: the highest level that remains. `early`: decided by the configuration alone, before the model's layers
    are known.
    """

    name: str
    value: Callable[[Setup], str | None]
    sentence: str
    hint: str
    leaves: Level = Level.ORDER
    early: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """The highest level that can be had, and by which rule no higher one, with what it found."""

    level: Level
    rule: Rule | None = None
    value: str | None = None

    @property
    def why(self) -> str | None:
        """Why no higher one, in words."""
        return f"{self.value}, and {self.rule.sentence}" if self.rule else None
