"""The experiment: random damage, equal shapes to the last bit, and a control that must fail."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from agentcache.errors import CheckFailed
from agentcache.vllm_plugin.lab.verify.compare import MARGINS, MAX_LOGPROB_DIFF, MAX_NEAR_TIES, Answer, Tally
from agentcache.vllm_plugin.lab.verify.engine import STEP_TOKENS, Subject
from agentcache.vllm_plugin.lab.verify.sizes import ANSWER_TOKENS, BLOCK_SIZE, MAX_LEN

CONTEXTS = 10
TURN_TOKENS = 400
EQUAL_CHUNK = 2 * BLOCK_SIZE


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


@dataclass(frozen=True, slots=True)
class Finding:
    """What `agentcache verify` reports. `bit_differences` counts answers that were not equal to the last bit."""

    dtype: str
    patterns: int
    mismatches: int
    near_ties: int
    max_logprob_diff: float
    prompt_tokens: int
    recomputed_tokens: int
    holes: int
    negative_control_failed: bool
    tokens_compared: int
    tokens_after_hole: int
    bit_exact_answers: int
    bit_differences: int

    @property
    def failures(self) -> list[str]:
        """Why this is no proof of exactness; empty if it is one."""
        checks = {
            f"{self.mismatches} tokens differ from the cold run": self.mismatches == 0,
            f"log-probabilities differ by up to {self.max_logprob_diff}": (
                self.max_logprob_diff <= MAX_LOGPROB_DIFF[self.dtype]
            ),
            f"{self.near_ties} near-ties in {self.tokens_compared} tokens are too many": (
                self.near_ties <= MAX_NEAR_TIES * self.tokens_compared
            ),
            f"{self.bit_differences} answers at equal shapes differ in a bit": self.bit_differences == 0,
            "the negative control passed, so the comparison has no teeth": self.negative_control_failed,
            "nothing was reused behind a hole": self.tokens_after_hole > 0,
        }
        return [sentence for sentence, fine in checks.items() if not fine]


def prompts(rng: random.Random, vocab_size: int, turn_tokens: int = TURN_TOKENS) -> list[list[int]]:
    """Contexts as agents make them: a shared beginning, growing turns of some, lengths on and off block boundaries."""
    system = _tokens(rng, rng.randrange(40, 200), vocab_size)
    made: list[list[int]] = []
    while len(made) < CONTEXTS:
        if made and rng.random() < 0.4:
            base = rng.choice(made)  # a later turn of that context
        else:
            base = system if rng.random() < 0.6 else []
        prompt = base + _tokens(rng, rng.randrange(30, turn_tokens), vocab_size)
        if rng.random() < 0.3:
            prompt = prompt[: len(prompt) // BLOCK_SIZE * BLOCK_SIZE]
        if BLOCK_SIZE < len(prompt) < MAX_LEN - BLOCK_SIZE:
            made.append(prompt)
    return made


def _tokens(rng: random.Random, count: int, vocab_size: int) -> list[int]:
    return [rng.randrange(3, vocab_size) for _ in range(count)]


def run(
    subject: Subject,
    dtype: str,
    patterns: int,
    seed: int,
    vocab_size: int,
    on_pattern: Callable[[], None],
    effort: Effort = Effort(),
) -> Finding:
    """Make the whole experiment. Raises `CheckFailed` when blocks are left over or the books do not balance."""
    rng = random.Random(seed)
    subject.answer_tokens, subject.fill_tokens = effort.answer_tokens, effort.fill_tokens
    contexts = prompts(rng, vocab_size, effort.turn_tokens)
    cold = [subject.cold(context) for context in contexts]
    tally = Tally(MARGINS[dtype])
    for _ in range(patterns):
        chosen = rng.sample(range(CONTEXTS), rng.choice((1, 1, 2, 4)))
        batch = [contexts[number] for number in chosen]
        subject.limit_step(rng.choice((BLOCK_SIZE, 100, 256, STEP_TOKENS)))
        subject.fill(batch)
        subject.damage(rng)
        for number, answer in zip(chosen, subject.ask(batch), strict=True):
            tally.compare(cold[number], answer)
        on_pattern()
    counts = (subject.prompt_tokens, subject.prompt_tokens - subject.cached_tokens, subject.holes, subject.after_hole)
    answers, differences = _equal_shapes(subject, rng, vocab_size, effort.equal_prompts)
    some = effort.control_prompts
    control = _negative_control(subject, contexts[:some], cold[:some], dtype)
    subject.engine.reset_prefix_cache()
    subject.view.check()
    return Finding(
        dtype,
        patterns,
        tally.mismatches,
        tally.near_ties,
        tally.max_logprob_diff,
        *counts[:3],
        negative_control_failed=control,
        tokens_compared=tally.tokens,
        tokens_after_hole=counts[3],
        bit_exact_answers=answers - differences,
        bit_differences=differences,
    )


def _equal_shapes(subject: Subject, rng: random.Random, vocab_size: int, prompts: int) -> tuple[int, int]:
    """Holes of whole chunks, one request at a time: every step has the shape it had in the cold run.

    Then arithmetic itself is the same, and answers must be equal to the last bit (given one thread).
    """
    subject.limit_step(EQUAL_CHUNK)
    count = differences = 0
    for _ in range(prompts):
        # The last chunk is shorter than a block, so that nothing of it is ever cached.
        length = rng.randrange(3, 12) * EQUAL_CHUNK + rng.randrange(1, BLOCK_SIZE)
        prompt = _tokens(rng, length, vocab_size)
        expected = subject.cold(prompt)
        for _ in range(3):
            subject.damage(rng, chunk_blocks=EQUAL_CHUNK // BLOCK_SIZE)
            count += 1
            differences += subject.ask([prompt]) != [expected]
    return count, differences


def _negative_control(subject: Subject, contexts: list[list[int]], cold: list[Answer], dtype: str) -> bool:
    """Poison blocks that are not evicted: their reuse must be seen, or the comparison proves nothing."""
    subject.limit_step(STEP_TOKENS)
    subject.engine.reset_prefix_cache()
    subject.fill(contexts)
    cached = subject.view.cached_block_ids()
    if not cached:
        raise CheckFailed("the negative control found nothing cached to poison")
    subject.view.poison(cached)
    tally = Tally(MARGINS[dtype])
    for expected, answer in zip(cold, subject.ask(contexts), strict=True):
        tally.compare(expected, answer)
    return tally.mismatches > 0
