"""Contexts as agents make them, in tokens drawn from a seed: what the engines under test are asked to go on from."""

import random

from agentcache.vllm_plugin.lab.verify.engine import cases
from agentcache.vllm_plugin.lab.verify.engine.cases import BLOCK_SIZE, MAX_LEN

CONTEXTS = 10
TURN_TOKENS = 400


def prompts(rng: random.Random, vocab_size: int, turn_tokens: int = TURN_TOKENS) -> list[list[int]]:
    """A shared beginning, growing turns of some, lengths on and off block boundaries; `turn_tokens` bounds a turn."""
    system = tokens(rng, rng.randrange(40, 200), vocab_size)
    made: list[list[int]] = []
    while len(made) < CONTEXTS:
        if made and rng.random() < 0.4:
            base = rng.choice(made)  # a later turn of that context
        else:
            base = system if rng.random() < 0.6 else []
        prompt = base + tokens(rng, rng.randrange(30, turn_tokens), vocab_size)
        if rng.random() < 0.3:
            prompt = prompt[: len(prompt) // BLOCK_SIZE * BLOCK_SIZE]
        if BLOCK_SIZE < len(prompt) < MAX_LEN - BLOCK_SIZE:
            made.append(prompt)
    return made


def with_edges(rng: random.Random, vocab_size: int, turn_tokens: int) -> list[list[int]]:
    """The longest of such, and lengths at which programs go wrong: below a block, one block, one more token."""
    drawn = sorted(prompts(rng, vocab_size, turn_tokens), key=len)[3 - cases.CONTEXTS :]
    return [*drawn, *(tokens(rng, count, vocab_size) for count in (7, BLOCK_SIZE, 4 * BLOCK_SIZE + 1))]


def whole_chunks(rng: random.Random, vocab_size: int, most: int) -> list[list[int]]:
    """Contexts of whole chunks of the equal budget and a tail shorter than a block, of which nothing is ever cached."""
    chunks = [rng.randrange(3, most) for _ in range(cases.CONTEXTS)]
    lengths = [count * cases.EQUAL_BUDGET + rng.randrange(1, BLOCK_SIZE) for count in chunks]
    return [tokens(rng, length, vocab_size) for length in lengths]


def tokens(rng: random.Random, count: int, vocab_size: int) -> list[int]:
    return [rng.randrange(3, vocab_size) for _ in range(count)]
