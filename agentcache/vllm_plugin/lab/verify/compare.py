"""What counts as the same answer."""

import math
from dataclasses import dataclass
from typing import Any

MARGINS = {"float32": 1e-3, "bfloat16": 5e-2}
"""Log-probability by which the cold run's best token must lead, for another choice to be a mismatch."""

MAX_NEAR_TIES = 0.01  # of the tokens compared
MAX_LOGPROB_DIFF = {"float32": 1e-4, "bfloat16": 5e-2}
"""Chunks of other shapes add up in another order. Tokens alone would miss a small error: they often stay the same."""


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """Greedy tokens with their log-probabilities, and by how much each led the second best."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    margins: tuple[float, ...]

    @classmethod
    def of(cls, output: Any) -> "GivenAnswer":
        """Read a vLLM completion that was asked for the two best log-probabilities of each token."""
        tokens = tuple(output.token_ids)
        chosen, margins = [], []
        for token, best in zip(tokens, output.logprobs, strict=True):
            chosen.append(best[token].logprob)
            ranked = sorted((entry.logprob for entry in best.values()), reverse=True)
            margins.append(ranked[0] - ranked[1])
        return cls(tokens, tuple(chosen), tuple(margins))

    def first(self, count: int) -> "GivenAnswer":
        """The answer to the same prompt when fewer tokens are asked."""
        return GivenAnswer(self.tokens[:count], self.logprobs[:count], self.margins[:count])


@dataclass(slots=True)
class AnswerTally:
    """Counts over all comparisons.

    A mismatch is a token that differs where the cold run's margin exceeds the limit, or a log-probability that is no
    number. A closer call is a near-tie; what follows it has another context, so the comparison stops there.
    """

    margin: float
    tokens: int = 0
    mismatches: int = 0
    near_ties: int = 0
    max_logprob_diff: float = 0.0

    def compare(self, cold: GivenAnswer, warm: GivenAnswer) -> None:
        for i, (expected, got) in enumerate(zip(cold.tokens, warm.tokens, strict=True)):
            self.tokens += 1
            if math.isnan(warm.logprobs[i]):
                self.mismatches += 1
                return
            if expected != got:
                if cold.margins[i] > self.margin:
                    self.mismatches += 1
                else:
                    self.near_ties += 1
                return
            self.max_logprob_diff = max(self.max_logprob_diff, abs(cold.logprobs[i] - warm.logprobs[i]))
