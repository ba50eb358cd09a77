"""Exactness on every path of the scheduler: drawn cases in many engines, and a small reproducer of what fails."""

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from agentcache.vllm_plugin.lab.verify.engine import cases
from agentcache.vllm_plugin.lab.verify.engine.cases import Case, Reproducer, Setting
from agentcache.vllm_plugin.lab.verify.engine.child import Child
from agentcache.vllm_plugin.lab.verify.engine.outcome import Finding, Outcome, total
from agentcache.vllm_plugin.lab.verify.programs import shrink

REQUIRED = (
    "holes",
    "several holes",
    "wholly resident",
    "prompt of whole blocks",
    "several samples",
    "salted",
    "a block of several requests",
    "a missing block of several requests in one step",
    "evicted while requests run",
    "preempted",
    "preempted in a rebuild",
    "preempted for want of blocks",
    "abort",
    "abort in a rebuild",
    "reset",
    "reset in a rebuild",
    "sleep and wake",
    *(f"budget {tokens}" for tokens in cases.BUDGETS),
)
"""Paths that a run must have walked to be a proof of all; `agentcache verify` prints how often it did."""

REQUIRED_SHARED = (
    "preempted in the step it was scheduled in",
    "keys withdrawn in the step that gave them",
)
"""Those that only a setting with a threshold walks, in which requests share a step's prefill."""

REQUIRED_BELOW = ("loaded",)
"""Those that only a setting with host memory walks."""

TRIALS = 60
RESTARTS = 8
"""Shrinking stops after so many cases, and after so many engines that broke."""


def drawn(setting: Setting, count: int, seed: int) -> list[Case]:
    """The cases of a setting: a tour through every path, then random ones."""
    first = [*([cases.withdrawal()] if setting.threshold else []), *cases.tour(setting.runner)]
    seeds = [random.Random(f"{seed} {setting.name} {number}") for number in range(count)]
    rest = [cases.draw(rng, setting.runner, crowded=setting.threshold > 0) for rng in seeds]
    return [*first, *rest][:count] if count > len(first) else first


def run_setting(setting: Setting, count: int, seed: int, on_case: Callable[[], None] = lambda: None) -> Finding:
    """Run the negative control and `count` cases in one engine; the first that fails is shrunk and ends the setting."""
    program = drawn(setting, count, seed)
    finding = Finding(setting, len(program))
    outcomes: list[Outcome] = []
    with Child(setting) as child:
        control = child.run(cases.control())
        finding.control_failed = control.mismatches > 0
        if control.fault:
            finding.why, finding.failure = control.fault, Reproducer(setting, cases.control())
            return finding
        for number, case in enumerate(program):
            outcome = child.run(case)
            outcomes.append(outcome)
            on_case()
            if why := outcome.why_wrong(setting.dtype):
                finding.why = why
                finding.failure = reproducer(child, case, program[:number])
                break
    finding.outcome = total(outcomes)
    if setting.beside:
        beside(finding, setting.beside, program, on_case)
    return finding


def beside(finding: Finding, stock: Setting, program: Sequence[Case], on_case: Callable[[], None]) -> None:
    """Have stock vLLM run the cases of a finding too."""
    outcomes: list[Outcome] = []
    with Child(stock) as child:
        for case in program:
            outcomes.append(child.run(case))
            on_case()
    finding.stock = total(outcomes)
    finding.stock_wrong = sum(outcome.why_wrong(stock.dtype) is not None for outcome in outcomes)


def reproducer(child: Child, case: Case, before: Sequence[Case]) -> Reproducer:
    """The smallest case found that still fails. One that fails only behind others keeps them, and is not shrunk."""

    def fails(smaller: Case) -> bool:
        return child.starts <= limit and child.run(smaller).why_wrong(child.setting.dtype) is not None

    limit = child.starts + RESTARTS
    child.fresh()
    if not fails(case):
        return Reproducer(child.setting, case, tuple(before))
    return Reproducer(child.setting, shrink(case, fails, TRIALS))


def reproduce(given: Reproducer) -> Outcome:
    """Run a written case again, with what stood before it, in a new engine."""
    with Child(given.setting) as child:
        for case in given.before:
            if (outcome := child.run(case)).broken:
                return outcome
        return child.run(given.case)


def run(
    settings: Sequence[Setting],
    counts: Sequence[int],
    seed: int,
    jobs: int,
    on_case: Callable[[], None] = lambda: None,
    on_finding: Callable[[Finding], None] = lambda finding: None,
) -> list[Finding]:
    """All settings, `jobs` engines at a time, in the order given. `on_finding` hears of each as it is done."""

    def one(setting: Setting, count: int) -> Finding:
        finding = run_setting(setting, count, seed, on_case)
        on_finding(finding)
        return finding

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, settings, counts))


def not_walked(findings: Sequence[Finding]) -> list[str]:
    """Paths that no case of any setting went through; the few cases of the second runner alone need not walk all."""
    if all(finding.setting.runner == "v2" for finding in findings):
        return []
    walked = total(finding.outcome for finding in findings).paths
    shared = REQUIRED_SHARED if any(finding.setting.threshold for finding in findings) else ()
    below = REQUIRED_BELOW if any(finding.setting.host_memory for finding in findings) else ()
    return [path for path in (*REQUIRED, *shared, *below) if not walked.get(path)]
