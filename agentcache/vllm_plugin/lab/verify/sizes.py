"""The sizes of the engines under test, in tokens; kept apart, so that knowing them needs no vLLM."""

BLOCK_SIZE = 32
MAX_LEN = 1024
ANSWER_TOKENS = 8
GARBAGE = 1e4
