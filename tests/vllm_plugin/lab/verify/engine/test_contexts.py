"""Contexts of the engines under test: drawn from a seed, as agents make them."""

import random

from hypothesis import given
from hypothesis import strategies as st

from agentcache.vllm_plugin.lab.verify.engine.cases import BLOCK_SIZE, MAX_LEN
from agentcache.vllm_plugin.lab.verify.engine.contexts import CONTEXTS, prompts


@given(st.integers(0, 2**32))
def test_prompts_fit_the_engine_and_vary_as_agents_do(seed: int) -> None:
    made = prompts(random.Random(seed), 512)
    assert made == prompts(random.Random(seed), 512)
    assert len(made) == CONTEXTS
    assert all(BLOCK_SIZE < len(prompt) < MAX_LEN - BLOCK_SIZE for prompt in made)
    assert all(3 <= token < 512 for prompt in made for token in prompt)


def test_prompts_share_beginnings_and_end_on_and_off_blocks() -> None:
    made = [prompt for seed in range(20) for prompt in prompts(random.Random(seed), 512)]
    assert {len(prompt) % BLOCK_SIZE == 0 for prompt in made} == {True, False}
    beginnings = [tuple(prompt[:BLOCK_SIZE]) for prompt in made]
    assert len(set(beginnings)) < len(beginnings) / 2
