"""How long a context is kept after a turn that ended in a tool call: Continuum's rule (arXiv:2511.02230v6), baselines.

A rule knows no engine, no clock and no blocks: it is told how long tools took and answers in seconds. The native
layer, both adapters and the simulator ask the same objects.
"""

import math
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

from agentcache.errors import ConfigError

MAX_TOOLS = 1024  # names come from clients; further ones count as one
MAX_SAMPLES = 4096  # durations remembered a tool, and of all tools
OTHER = "(other)"


class Rule:
    """Keeps nothing and learns nothing: `never`. The others differ in what they override."""

    def returned(self, tool: str, pause_s: float) -> None:
        """The turn after a call of this tool came `pause_s` seconds after the one before it had finished."""

    def waited(self, seconds: float) -> None:
        """A returning turn whose context was no longer kept waited so long, from its arrival to its first step."""

    def ended(self, turns: int) -> None:
        """A program has ended after so many turns."""

    def keep_s(self, tool: str | None, reload_s: float, pause_s: float | None = None) -> float:
        """Seconds to keep the context whose turn called `tool`; 0 frees it, infinity keeps it until it returns.

        `reload_s`: to rebuild all of it. `pause_s`: how long the tool will really take, where somebody knows.
        """
        return 0.0


class Always(Rule):
    """Until the program returns, or somebody needs the memory (InferCept's preserve)."""

    def keep_s(self, tool: str | None, reload_s: float, pause_s: float | None = None) -> float:
        return math.inf


class Fixed(Rule):
    """The same time for all."""

    def __init__(self, seconds: float) -> None:
        _check("continuum-fixed", s=seconds >= 0)
        self.seconds = seconds

    def keep_s(self, tool: str | None, reload_s: float, pause_s: float | None = None) -> float:
        return self.seconds


class Durations:
    """Observed durations by tool, the latest `MAX_SAMPLES` of each, of at most `MAX_TOOLS` tools by name."""

    def __init__(self) -> None:
        self.of: dict[str, deque[float]] = {}
        self.all: deque[float] = deque(maxlen=MAX_SAMPLES)

    def add(self, tool: str, pause_s: float) -> None:
        name = tool if tool in self.of or len(self.of) < MAX_TOOLS else OTHER
        self.of.setdefault(name, deque(maxlen=MAX_SAMPLES)).append(pause_s)
        self.all.append(pause_s)

    def get(self, tool: str) -> deque[float]:
        return self.of.get(tool) or self.of.get(OTHER) or deque()


class Preview(Rule):
    """What the authors' preview runs: `seconds` while the tool's mean duration is not above it, or unknown; else 0."""

    def __init__(self, seconds: float = 2.0) -> None:
        _check("continuum-preview", s=seconds >= 0)
        self.seconds = seconds
        self.durations = Durations()

    def returned(self, tool: str, pause_s: float) -> None:
        self.durations.add(tool, pause_s)

    def keep_s(self, tool: str | None, reload_s: float, pause_s: float | None = None) -> float:
        if tool is None:
            return 0.0
        seen = self.durations.of.get(tool)
        return self.seconds if not seen or math.fsum(seen) / len(seen) <= self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class PaperOptions:
    """What the paper leaves open, with our defaults.

    `k`: samples above which a tool, or all tools together, speak (the paper's K). `cold_s`: seconds kept before that;
    None is the optimum for durations ~ Exp(1 s), ln B. `waits`, `programs`: how many of the last ones count for T and
    for eta. `count_last`: eta's pairs include (N, 0). `first_eta`: eta until programs of two different lengths ended.
    """

    k: int = 100
    cold_s: float | None = None
    waits: int = 100
    programs: int = 256
    count_last: bool = False
    first_eta: float = 1.0


class PaperV6(Rule):
    """The cost-benefit rule: the tau that maximises F(tau) B - tau, with B = eta T + reload seconds.

    F is the empirical distribution of the tool's durations, or of all; T the mean wait of programs that had lost their
    context; eta = -Corr(k, N - k) over the finished programs, 1 if all are equally long, about 0 if lengths are
    geometric. Candidates are 0 and every observed duration; ties go to the shorter.
    """

    def __init__(self, options: PaperOptions = PaperOptions()) -> None:
        o = self.options = options
        _check(
            "continuum",
            k=o.k >= 0,
            cold_s=o.cold_s is None or o.cold_s >= 0,
            waits=o.waits >= 1,
            programs=o.programs >= 1,
        )
        self.durations = Durations()
        self.waits: deque[float] = deque(maxlen=o.waits)
        self.programs: deque[int] = deque(maxlen=o.programs)
        self._eta: float | None = None

    def returned(self, tool: str, pause_s: float) -> None:
        self.durations.add(tool, pause_s)

    def waited(self, seconds: float) -> None:
        self.waits.append(seconds)

    def ended(self, turns: int) -> None:
        self.programs.append(turns)
        self._eta = None

    @property
    def queueing_s(self) -> float:
        """The paper's T."""
        return math.fsum(self.waits) / len(self.waits) if self.waits else 0.0

    @property
    def eta(self) -> float:
        if self._eta is None:
            self._eta = self._correlate()
        return self._eta

    def _correlate(self) -> float:
        """-Corr over all pairs (k, N - k), k = 1..N-1, in whole numbers: both have the same moments, but for k = N."""
        if len(set(self.programs)) < 2:
            return self.options.first_eta
        pairs = sum_k = sum_rest = squares_k = squares_rest = products = 0
        for turns, count in Counter(self.programs).items():
            n = max(turns - 1, 0)
            total, squares = n * (n + 1) // 2, n * (n + 1) * (2 * n + 1) // 6
            last = int(self.options.count_last and turns > 0)
            pairs += count * (n + last)
            sum_k += count * (total + last * turns)
            squares_k += count * (squares + last * turns**2)
            sum_rest += count * total
            squares_rest += count * squares
            products += count * (turns * total - squares)
        spread = (pairs * squares_k - sum_k**2) * (pairs * squares_rest - sum_rest**2)
        return -(pairs * products - sum_k * sum_rest) / math.sqrt(spread) if spread else self.options.first_eta

    def benefit_s(self, reload_s: float) -> float:
        """The paper's B: what a hit saves, in seconds."""
        return self.eta * self.queueing_s + reload_s

    def keep_s(self, tool: str | None, reload_s: float, pause_s: float | None = None) -> float:
        if tool is None:
            return 0.0
        seen = self.durations.get(tool)
        if len(seen) <= self.options.k:
            seen = self.durations.all
        if len(seen) <= self.options.k:
            return self._cold(self.queueing_s + reload_s)
        taus = np.sort(np.asarray(seen))
        gains = np.arange(1, len(taus) + 1) / len(taus) * self.benefit_s(reload_s) - taus
        best = int(
            np.argmax(gains)
        )  # of equal durations the last one has the most; of equal gains the shorter is first
        return float(taus[best]) if gains[best] > 0 else 0.0

    def _cold(self, benefit_s: float) -> float:
        if self.options.cold_s is not None:
            return self.options.cold_s
        return math.log(benefit_s) if benefit_s > 1 else 0.0


class Oracle(PaperV6):
    """Knows the pause: keeps the context exactly so long, if that costs less than it saves. The paper's B otherwise."""

    def keep_s(self, tool: str | None, reload_s: float, pause_s: float | None = None) -> float:
        return pause_s if pause_s is not None and pause_s < self.benefit_s(reload_s) else 0.0


def _check(name: str, **fine: bool) -> None:
    if wrong := ", ".join(key for key, ok in fine.items() if not ok):
        raise ConfigError(
            f"policy {name!r}: {wrong} is out of range; nothing was started",
            hint="seconds and sample counts are >= 0, windows at least 1, -1 seconds stands for the paper's own rule",
        )
