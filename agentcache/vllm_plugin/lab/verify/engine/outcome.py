"""What cases have shown, summed over the cases of an engine, and why that is no proof where it is none."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from agentcache.model import TurnScheduled
from agentcache.vllm_plugin.lab.verify.compare import MAX_LOGPROB_DIFF, MAX_NEAR_TIES, AnswerTally
from agentcache.vllm_plugin.lab.verify.engine.cases import Reproducer, Setting


class Outcome(msgspec.Struct):
    """What a case has shown. `paths` counts what it went through; `broken` says that the engine is of no more use."""

    mismatches: int = 0
    near_ties: int = 0
    tokens: int = 0
    max_logprob_diff: float = 0.0
    prompt_tokens: int = 0
    recomputed_tokens: int = 0
    tokens_after_hole: int = 0
    loaded_tokens: int = 0
    holes: int = 0
    equal_answers: int = 0
    bit_differences: int = 0
    paths: dict[str, int] = {}
    fault: str | None = None
    broken: bool = False

    def hear(self, event: TurnScheduled) -> None:
        """A request gets its first step: count what it finds."""
        self.prompt_tokens += event.tokens
        self.recomputed_tokens += event.tokens - event.cached
        self.tokens_after_hole += event.after_hole
        self.loaded_tokens += event.loaded
        self.holes += event.holes

    def take(self, tally: AnswerTally) -> None:
        """The comparisons are done."""
        self.mismatches, self.near_ties, self.tokens = tally.mismatches, tally.near_ties, tally.tokens
        self.max_logprob_diff = tally.max_logprob_diff

    def wrongs(self, dtype: str) -> list[str]:
        """What makes this a failure, a sentence each; none if nothing does. Near-ties are judged in the sum."""
        checks = {
            self.fault or "": not self.fault,
            f"{self.mismatches} tokens differ from the cold run": not self.mismatches,
            f"{self.bit_differences} answers at equal shapes differ in a bit": not self.bit_differences,
            f"log-probabilities differ by up to {self.max_logprob_diff:.2g}": (
                self.max_logprob_diff <= MAX_LOGPROB_DIFF[dtype]
            ),
        }
        return [sentence for sentence, fine in checks.items() if not fine]

    def why_wrong(self, dtype: str) -> str | None:
        """The first of `wrongs`."""
        return next(iter(self.wrongs(dtype)), None)


def total(outcomes: Iterable[Outcome]) -> Outcome:
    """The sum of several; its largest difference is the largest of all, its fault the first."""
    made, paths = Outcome(), Counter[str]()
    for one in outcomes:
        for name in Outcome.__struct_fields__[: Outcome.__struct_fields__.index("paths")]:
            ours, more = getattr(made, name), getattr(one, name)
            setattr(made, name, max(ours, more) if name == "max_logprob_diff" else ours + more)
        made.fault = made.fault or one.fault
        paths.update(one.paths)
    made.paths = dict(paths)
    return made


@dataclass(slots=True)
class Finding:
    """What one setting has shown. `failure`: the first case that was wrong, made small, and why it is wrong.

    `stock`: what vLLM alone has shown in the same cases, and `stock_wrong` in how many it was wrong; None where it was
    not run. It fails nothing.
    """

    setting: Setting
    cases: int
    outcome: Outcome = field(default_factory=Outcome)
    control_failed: bool = False
    why: str | None = None
    failure: Reproducer | None = None
    stock: Outcome | None = None
    stock_wrong: int = 0

    @property
    def failures(self) -> list[str]:
        """Why this is no proof of exactness; empty if it is one."""
        if self.why:
            return [self.why]
        seen = self.outcome
        checks = {
            f"{seen.near_ties} near-ties in {seen.tokens} tokens are too many": (
                seen.near_ties <= MAX_NEAR_TIES * seen.tokens
            ),
            "the negative control passed, so the comparison has no teeth": self.control_failed,
            "nothing was reused behind a hole": seen.tokens_after_hole > 0,
            "nothing was loaded": seen.loaded_tokens > 0 or not self.setting.host_memory,
        }
        return [*seen.wrongs(self.setting.dtype), *(sentence for sentence, fine in checks.items() if not fine)]
