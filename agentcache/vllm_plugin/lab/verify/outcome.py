"""What cases have shown, summed over the cases of an engine, and why that is no proof where it is none."""

from collections import Counter
from collections.abc import Iterable

import msgspec

from agentcache.vllm_plugin.lab.verify.compare import MAX_LOGPROB_DIFF, MAX_NEAR_TIES


class Outcome(msgspec.Struct):
    """What a case has shown. `paths` counts what it went through; `broken` says that the engine is of no more use."""

    mismatches: int = 0
    near_ties: int = 0
    tokens: int = 0
    max_logprob_diff: float = 0.0
    prompt_tokens: int = 0
    recomputed_tokens: int = 0
    tokens_after_hole: int = 0
    holes: int = 0
    equal_answers: int = 0
    bit_differences: int = 0
    paths: dict[str, int] = {}
    fault: str | None = None
    broken: bool = False

    def why_wrong(self, dtype: str) -> str | None:
        """What makes this case a failure, in one sentence; None if nothing does. Near-ties are judged in the sum."""
        if self.fault:
            return self.fault
        if self.mismatches:
            return f"{self.mismatches} tokens differ from the cold run"
        if self.bit_differences:
            return f"{self.bit_differences} answers at equal shapes differ in a bit"
        if self.max_logprob_diff > MAX_LOGPROB_DIFF[dtype]:
            return f"log-probabilities differ by up to {self.max_logprob_diff:.2g}"
        return None

    @property
    def too_many_near_ties(self) -> bool:
        return self.near_ties > MAX_NEAR_TIES * self.tokens


def total(outcomes: Iterable[Outcome]) -> Outcome:
    """The sum of several; its largest difference is the largest of all, its fault the first."""
    made = Outcome()
    paths: Counter[str] = Counter()
    for one in outcomes:
        for name in ("mismatches", "near_ties", "tokens", "prompt_tokens", "recomputed_tokens", "tokens_after_hole"):
            setattr(made, name, getattr(made, name) + getattr(one, name))
        made.holes += one.holes
        made.equal_answers += one.equal_answers
        made.bit_differences += one.bit_differences
        made.max_logprob_diff = max(made.max_logprob_diff, one.max_logprob_diff)
        made.fault = made.fault or one.fault
        paths.update(one.paths)
    made.paths = dict(paths)
    return made
