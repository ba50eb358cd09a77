"""Adaptive chunking: how many prefill tokens a step computes, so that running decodes keep their pace.

    adaptive               the largest chunk whose predicted step keeps the decodes' time per output token (TPOT)
    paper                  half of the budget a prefill while more than 16 decodes run (arXiv 2606.02964, numbers ours)
    fixed:N                at most N prefill tokens a step
    off                    the host's own budget

A host, be it an engine or a simulator, opens each step with the decodes in it and the budget they leave, and asks for
one prefill after the other, the oldest first:

    rule = parse_chunking("adaptive:tpot=50ms")
    step = rule.step(cost, Decodes(count, context_tokens, pace_s), budget_tokens)
    for prefill in prefills:
        tokens = step.take(gaps_of(prefill), newly_linked_tokens)      # 0: it waits for the next step

`gaps` are the missing token ranges [p, e) that the prefill could compute in this step, in order, at most as many as
the host puts into one step; resident tokens between them cost no budget. Afterwards `step.seconds` is the prediction.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentcache.cost import CostModel
from agentcache.errors import ConfigError
from agentcache.specs import Spec

Gap = tuple[int, int]
Mode = Literal["off", "fixed", "paper", "adaptive"]

_OPTIONS: dict[str, tuple[str, ...]] = {
    "adaptive": ("tpot", "threshold", "least", "slack"),
    "paper": ("base", "share", "threshold", "least"),
    "fixed": ("size",),
    "off": (),
}


@dataclass(frozen=True, slots=True)
class Decodes:
    """The decodes of a step: how many, over how many context tokens in all, and their pace so far.

    `pace_s` is of the slowest of them, in seconds per output token since its first one; None where one has no pace yet.
    """

    count: int = 0
    context_tokens: int = 0
    pace_s: float | None = None


@dataclass(frozen=True, slots=True)
class Chunking:
    """A rule of chunking; `step` applies it. It acts while more than `threshold` decodes run.

    `adaptive`: the target is `tpot_s` seconds, or where that is None `tpot_x` times the step of the decodes alone;
    with `slack`, decodes that have been faster than the target let a step be longer by as much, at most twice as long.
    `paper`: every prefill gets `share` of `base` tokens (None: of the budget). `fixed`: `size` tokens for all
    prefills together, whatever runs. A prefill gets at least `least` tokens or waits, and the oldest never waits.
    """

    mode: Mode = "off"
    tpot_s: float | None = None
    tpot_x: float = 1.5
    threshold: int = 0
    least: int = 256
    slack: bool = True
    base: int | None = None
    share: float = 0.5
    size: int = 0

    def __post_init__(self) -> None:
        fine = {
            "tpot_s": self.tpot_s is None or 0 < self.tpot_s < math.inf,
            "tpot_x": 1 < self.tpot_x < math.inf,
            "threshold": self.threshold >= 0,
            "least": self.least >= 1,
            "base": self.base is None or self.base >= 1,
            "share": 0 < self.share <= 1,
            "size": self.size >= 1 or self.mode != "fixed",
        }
        if wrong := [name for name, ok in fine.items() if not ok]:
            given = ", ".join(f"{name} {getattr(self, name)}" for name in wrong)
            raise ConfigError(
                f"chunking {self.mode!r}: {given} is out of range; nothing was started",
                hint="a target above 0 ms or above x1, threshold >= 0, tokens >= 1, 0 < share <= 1",
            )

    def step(self, cost: CostModel, decodes: Decodes, budget_tokens: int) -> "Step":
        """Open a step in which prefills may compute `budget_tokens` tokens in all."""
        alone_s = cost.step_seconds([], decodes.count, decodes.context_tokens)
        step = Step(cost, decodes, budget_tokens, self.least)
        if self.mode == "fixed":
            step.left = min(budget_tokens, self.size)
        if decodes.count <= self.threshold:
            return step
        if self.mode == "paper":
            step.each = max(self.least, int(self.share * (self.base or budget_tokens)))
        if self.mode == "adaptive":
            step.target_s = self.target_s(alone_s, decodes.pace_s)
        return step

    def target_s(self, alone_s: float, pace_s: float | None = None) -> float:
        """Seconds that a step may take beside decodes whose step alone takes `alone_s`."""
        tpot_s = self.tpot_x * alone_s if self.tpot_s is None else self.tpot_s
        if not self.slack or pace_s is None:
            return tpot_s
        return tpot_s + min(max(tpot_s - pace_s, 0.0), tpot_s)


class Step:
    """One step being filled, prefill by prefill."""

    def __init__(self, cost: CostModel, decodes: Decodes, budget_tokens: int, least: int) -> None:
        self.target_s = math.inf
        self.left = budget_tokens
        self.each = budget_tokens
        self._cost = cost
        self._least = least
        self._segments = 0
        # The work of tokens and decodes, which the profile's floor may hide, and everything else.
        self._work = cost.profile.c_dec * decodes.count
        self._rest = cost.profile.c0 + cost.profile.c_kv * decodes.context_tokens

    @property
    def seconds(self) -> float:
        """Predicted time of the step as filled so far."""
        return self._rest + max(self._cost.profile.floor, self._work)

    def take(self, gaps: Sequence[Gap], linked: int = 0) -> int:
        """Prefill tokens for the next prefill, out of its gaps in order; 0 when it has to wait.

        `linked` resident tokens before the first gap are touched for the first time in this step.
        """
        most = min(sum(end - start for start, end in gaps), self.left, self.each)
        tokens = most
        if self.target_s < math.inf:
            tokens = self._fitting(gaps, linked, most)
            if tokens < most:
                tokens -= tokens % self._cost.block_size
            if tokens < min(self._least, most):
                # The oldest makes progress under any load; the others have their turn later.
                tokens = 0 if self._segments else min(self._least, most)
        self._spend(gaps, linked, tokens)
        return tokens

    def _fitting(self, gaps: Sequence[Gap], linked: int, most: int) -> int:
        """The most tokens with which the step keeps its target."""
        profile = self._cost.profile
        rest, work, tokens, before = self._rest, self._work, 0, gaps[0][0] - linked if gaps else 0
        for number, (start, end) in enumerate(gaps):
            rest += profile.c_load * (start - before) + (profile.c_seg if self._segments + number else 0.0)
            room, att, slope = self.target_s - rest, profile.c_att, 2 * profile.c_att * start
            # Under the floor tokens cost attention alone; both bounds hold.
            q = min(_root(att, slope + profile.c_lin, room - work), _root(att, slope, room - profile.floor))
            if q < end - start:
                return min(tokens + int(q), most)
            tokens += end - start
            work += profile.c_lin * (end - start)
            rest += att * (end * end - start * start)
            before = end
        return min(tokens, most)

    def _spend(self, gaps: Sequence[Gap], linked: int, tokens: int) -> None:
        self.left -= tokens
        profile, before = self._cost.profile, gaps[0][0] - linked if gaps else 0
        for start, end in gaps:
            if tokens <= 0:
                break
            end = min(end, start + tokens)
            tokens -= end - start
            self._rest += profile.c_load * (start - before) + (profile.c_seg if self._segments else 0.0)
            self._rest += profile.c_att * (end * end - start * start)
            self._work += profile.c_lin * (end - start)
            self._segments += 1
            before = end


def _root(a: float, b: float, room: float) -> float:
    """The q >= 0 with a q^2 + b q = room, in the form that a = 0 does not break; 0 where there is no room."""
    if room <= 0:
        return 0.0
    below = b + math.sqrt(b * b + 4 * a * room)
    return 2 * room / below if below else math.inf


def parse_chunking(spec: str) -> Chunking:
    """The rule that `NAME` or `NAME:option=value,...` stands for.

    `adaptive:tpot=50ms,threshold=4,least=128,slack=off` or `adaptive:tpot=x1.5`; `paper:base=2048,share=0.5`;
    `fixed:512`. Raises `ConfigError` for an unknown name (listing the known ones), an unknown option, or a bad value.
    """
    given = Spec("chunking", spec)
    name = given.name
    if name not in _OPTIONS:
        raise given.error(f"chunking {spec!r} is unknown", "known: " + ", ".join(_OPTIONS))
    values: dict[str, Any] = {"least": 512, "threshold": 16} if name == "paper" else {}
    for key, text in given.options(_OPTIONS[name], first="size" if name == "fixed" else "").items():
        values |= _read(given, key, text)
    return Chunking(name, **values)  # type: ignore[arg-type]


def _read(given: Spec, key: str, text: str) -> dict[str, Any]:
    match key:
        case "tpot":
            try:
                if text.startswith("x"):
                    return {"tpot_s": None, "tpot_x": given.number(key, text[1:])}
                return {"tpot_s": given.number(key, text.removesuffix("ms")) / 1e3}
            except ConfigError:
                raise given.unexpected(key, text, "milliseconds (50ms) or a multiple (x1.5)") from None
        case "slack":
            return {key: given.either(key, text, "on", "off")}
        case "share":
            return {key: given.number(key, text)}
    value = given.number(key, text)
    if value != int(value):
        raise given.unexpected(key, text, "a whole number")
    return {key: int(value)}
