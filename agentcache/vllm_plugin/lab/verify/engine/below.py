"""Blocks of a real engine pushed down to its host memory and lost there, and what must be seen where that is wrong."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from agentcache.errors import CheckFailed
from agentcache.vllm_plugin.lab.verify.compare import MARGINS, AnswerTally, GivenAnswer
from agentcache.vllm_plugin.lab.verify.engine.cases import BLOCK_SIZE
from agentcache.vllm_plugin.lab.verify.engine.contexts import tokens
from agentcache.vllm_plugin.lab.verify.engine.real import GARBAGE, RealEngine

if TYPE_CHECKING:
    from agentcache.vllm_plugin.lab.verify.engine.experiment import Effort


class Below:
    """Host memory of an engine, in which nothing runs."""

    def __init__(self, engine: RealEngine, effort: "Effort") -> None:
        self._engine, self._effort = engine, effort
        assert engine.porter
        self._tier = engine.porter.tier
        self._memory = engine.view.worker._memory

    def push_down(self, share: float) -> None:
        """A share of what the pool has cached leaves it, in the order of its policy."""
        pool = self._engine.view.pool
        keyless = pool.free_block_queue.num_useless_blocks
        taken = pool.get_new_blocks(keyless + int(share * len(self._engine.view.cached_block_ids())))
        pool.free_blocks(taken)
        # Copies come with steps: with those of a prompt that fills no block.
        self._engine.ask([tokens(random.Random(0), BLOCK_SIZE // 2, self._engine.vocab_size)], 1)

    def lose(self, rng: random.Random, share: float) -> None:
        """A share of what is below is no longer there."""
        self._tier.drop([key for key in list(self._tier._held) if rng.random() < share], 0.0)

    def controls(self, contexts: Sequence[list[int]], cold: Sequence[GivenAnswer]) -> bool:
        """Whether loads left out and blocks that are wrong below are seen in answers.

        Raises `CheckFailed` where a reset leaves something below, or one tenant's blocks are found by another.
        """
        engine = self._engine
        seen = []
        self._fill(contexts)
        with self._left_out():
            seen.append(self._differs(contexts, cold))
        self._fill(contexts)
        self._spoil()
        seen.append(self._differs(contexts, cold))
        self._fill(contexts)
        self._spoil()
        engine.engine.reset_prefix_cache()
        if self._tier.held_blocks or self._differs(contexts, cold):
            raise CheckFailed("after a reset, something of before it is still below")
        self._fill(contexts)
        loaded = self._tier.loaded_blocks
        engine.ask(contexts, 1, salt="another tenant")
        if self._tier.loaded_blocks != loaded:
            raise CheckFailed("blocks of one tenant have been loaded for another")
        return all(seen)

    def _fill(self, contexts: Sequence[list[int]]) -> None:
        self._engine.engine.reset_prefix_cache()
        self._engine.ask(contexts, self._effort.fill_tokens)
        self.push_down(1.0)
        if not self._tier.held_blocks:
            raise CheckFailed("nothing has gone down to host memory, so nothing can be shown of it")

    def _differs(self, contexts: Sequence[list[int]], cold: Sequence[GivenAnswer]) -> bool:
        tally = AnswerTally(MARGINS[self._engine.setting.dtype])
        for expected, answer in zip(cold, self._engine.ask(contexts, self._effort.answer_tokens), strict=True):
            tally.compare(expected, answer)
        return tally.mismatches > 0

    def _spoil(self) -> None:
        """What is below is other K/V than what its keys say, as after new weights."""
        for held in self._memory.held:
            held.copy_(torch.full_like(held, GARBAGE))

    @contextmanager
    def _left_out(self) -> Iterator[None]:
        """Loads are reported and not made."""
        copy_up, self._memory.copy_up = self._memory.copy_up, lambda orders: None
        yield
        self._memory.copy_up = copy_up
