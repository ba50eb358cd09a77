"""The plain experiment: random damage, equal shapes to the last bit, and a control that must fail."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentcache.errors import CheckFailed
from agentcache.model import Event, TurnScheduled
from agentcache.vllm_plugin.lab.verify.compare import MARGINS, AnswerTally, GivenAnswer
from agentcache.vllm_plugin.lab.verify.engine.below import Below
from agentcache.vllm_plugin.lab.verify.engine.cases import BLOCK_SIZE, EQUAL_BUDGET, Setting
from agentcache.vllm_plugin.lab.verify.engine.contexts import CONTEXTS, TURN_TOKENS, prompts, tokens
from agentcache.vllm_plugin.lab.verify.engine.outcome import Finding, Outcome
from agentcache.vllm_plugin.lab.verify.engine.real import RealEngine
from agentcache.vllm_plugin.lab.verify.programs import ANSWER_TOKENS

STEP_TOKENS = 512
POOL_BLOCKS = 639  # far more than a pattern allocates, so that nothing is evicted but by `damage`


@dataclass(frozen=True, slots=True)
class Effort:
    """How much of everything one experiment does; tokens, and numbers of prompts. `turn_tokens` bounds a drawn turn."""

    answer_tokens: int = ANSWER_TOKENS
    fill_tokens: int = ANSWER_TOKENS
    turn_tokens: int = TURN_TOKENS
    equal_prompts: int = 8
    control_prompts: int = CONTEXTS


INTERPRETED = Effort(answer_tokens=4, fill_tokens=1, turn_tokens=150, equal_prompts=2, control_prompts=3)
"""For kernels that are interpreted, which take a tenth of a second a token and request: the patterns get the time."""


def run(
    setting: Setting, patterns: int, on_pattern: Callable[[], None] = lambda: None, effort: Effort = Effort()
) -> Finding:
    """Make the whole experiment. Raises `CheckFailed` when blocks are left over or the books do not balance."""
    return _Experiment(setting, effort).run(patterns, on_pattern)


class _Experiment:
    """One engine for all patterns, which keeps what they leave behind; `_counts` is of what is asked behind damage."""

    def __init__(self, setting: Setting, effort: Effort) -> None:
        self._setting, self._effort = setting, effort
        self._engine = RealEngine(setting, POOL_BLOCKS, STEP_TOKENS)
        self._engine.view.listen(self._hear)
        self._rng = random.Random(setting.seed)
        self._contexts = prompts(self._rng, self._engine.vocab_size, effort.turn_tokens)
        self._counts, self._counting = Outcome(), False

    def _hear(self, event: Event, now: float) -> None:
        if self._counting and isinstance(event, TurnScheduled):
            self._counts.hear(event)

    def run(self, patterns: int, on_pattern: Callable[[], None]) -> Finding:
        engine, rng, counts = self._engine, self._rng, self._counts
        cold = [engine.cold(context, self._effort.answer_tokens) for context in self._contexts]
        tally = AnswerTally(MARGINS[self._setting.dtype])
        for _ in range(patterns):
            chosen = rng.sample(range(CONTEXTS), rng.choice((1, 1, 2, 4)))
            batch = [self._contexts[number] for number in chosen]
            engine.limit(rng.choice((BLOCK_SIZE, 100, 256, STEP_TOKENS)))
            engine.ask(batch, self._effort.fill_tokens)
            self._damage()
            if engine.porter:
                self._push_down()
            self._counting = True
            for number, answer in zip(chosen, engine.ask(batch, self._effort.answer_tokens), strict=True):
                tally.compare(cold[number], answer)
            self._counting = False
            on_pattern()
        counts.take(tally)
        self._equal_shapes()
        some = self._effort.control_prompts
        control = self._negative_control(self._contexts[:some], cold[:some])
        if engine.porter:
            control = Below(engine, self._effort).controls(self._contexts[:some], cold[:some]) and control
        engine.engine.reset_prefix_cache()
        engine.view.check()
        return Finding(self._setting, patterns, counts, control)

    def _damage(self, chunk_blocks: int = 1) -> None:
        """Evict a random set of cached blocks, in runs of `chunk_blocks` positions."""
        share = self._rng.choice((0.1, 0.3, 0.5, 0.7, 0.9))
        clustered = self._rng.random() < 0.5 or chunk_blocks > 1
        self._engine.evict(self._rng, self._engine.view.cached_block_ids(), share, clustered, chunk_blocks)

    def _push_down(self) -> None:
        """Have a random part of what is cached leave the pool, and lose a random part of that below."""
        below = Below(self._engine, self._effort)
        below.push_down(self._rng.choice((0.3, 0.7, 1.0)))
        below.lose(self._rng, self._rng.choice((0.0, 0.1, 0.5)))

    def _equal_shapes(self) -> None:
        """Holes of whole chunks, one request at a time: every step has the shape it had in the cold run.

        Then arithmetic itself is the same, and answers must be equal to the last bit (given one thread).
        """
        engine, rng = self._engine, self._rng
        engine.limit(EQUAL_BUDGET)
        for _ in range(self._effort.equal_prompts):
            # The last chunk is shorter than a block, so that nothing of it is ever cached.
            length = rng.randrange(3, 12) * EQUAL_BUDGET + rng.randrange(1, BLOCK_SIZE)
            prompt = tokens(rng, length, engine.vocab_size)
            expected = engine.cold(prompt, self._effort.answer_tokens)
            for _ in range(3):
                self._damage(chunk_blocks=EQUAL_BUDGET // BLOCK_SIZE)
                self._counts.equal_answers += 1
                self._counts.bit_differences += engine.ask([prompt], self._effort.answer_tokens) != [expected]

    def _negative_control(self, contexts: Sequence[list[int]], cold: Sequence[GivenAnswer]) -> bool:
        """Poison blocks that are not evicted: their reuse must be seen, or the comparison proves nothing."""
        engine = self._engine
        engine.limit(STEP_TOKENS)
        engine.engine.reset_prefix_cache()
        engine.ask(contexts, self._effort.fill_tokens)
        cached = engine.view.cached_block_ids()
        if not cached:
            raise CheckFailed("the negative control found nothing cached to poison")
        engine.view.poison(cached)
        tally = AnswerTally(MARGINS[self._setting.dtype])
        for expected, answer in zip(cold, engine.ask(contexts, self._effort.answer_tokens), strict=True):
            tally.compare(expected, answer)
        return tally.mismatches > 0
