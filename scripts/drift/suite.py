"""Do our schedulers do on the next vLLM what they do on this one? Its Python has no compiled part, and needs none here.

`python scripts/drift/suite.py [VERSION]` runs the scheduler's tests and drawn programs of the model check in an
environment that has that release's Python (see `drift.py`). No engine runs. Exit code 0 all well or the wheel cannot be
had (a counted skip), 1 something is wrong.
"""

import subprocess
import sys
from pathlib import Path

from drift import NEXT, ROOT, NoWheel, environment
from foreign import imported

from agentcache.vllm_plugin.launch.cpu_env import prepare

TESTS = (
    "blocks",
    "steps",
    "test_overrides.py",
    "test_compat.py",
    "test_config.py",
    "test_differential.py",
    "lab/verify/test_programs.py",
    "lab/verify/books",
)
"""Below tests/vllm_plugin; of these, what is not marked to take a real engine."""

LONG = ("test_shrinkable_programs", "drawn_programs", "above_met", "test_it_is_caught", "worked_out_once_a_step")
"""Left out for their length: most are drawn programs, of which there are others here."""

PROGRAMS = 200
CHILD = "--in-this-environment"


def on_a_cpu() -> None:
    """Have this process take the CPU for its platform: the wheel is of the CUDA build, so that vLLM would find none."""
    imported("vllm.platforms")._current_platform = imported("vllm.platforms.cpu").CpuPlatform()


def tests() -> int:
    import pytest

    places = [str(ROOT / "tests" / "vllm_plugin" / name) for name in TESTS]
    chosen = f"not ({' or '.join(LONG)})"
    return pytest.main(["-q", "-p", "no:cacheprovider", "-m", "not vllm and not ray", "-k", chosen, *places])


def model_check() -> str | None:
    """What is wrong in drawn programs, by a check that our mutations do not pass (lab/verify/books/test_check.py)."""
    from agentcache.vllm_plugin.lab.verify.books.check import check

    finding = check(PROGRAMS, seed=33)
    met = ", ".join(f"{finding.met[path]} {path}" for path in ("answers", "holes", "preemptions", "resets"))
    print(f"model check: {finding.programs} programs: {met}")
    return finding.why


def look() -> int:
    prepare(threads=1)
    on_a_cpu()
    wrong = tests()
    why = model_check()
    said = why or ("tests fail" if wrong else "tests pass, nothing is wrong in the model check")
    print(f"next: vLLM {imported('vllm').__version__}, without an engine: {said}")
    return 1 if wrong or why else 0


def main(version: str = NEXT) -> int:
    try:
        python = environment(version)
    except NoWheel as error:
        print(f"next: 1 skipped: vllm=={version} cannot be had: {error}")
        return 0
    child = subprocess.run([python, Path(__file__), CHILD], cwd=ROOT, check=False)
    return child.returncode


if __name__ == "__main__":
    sys.exit(look() if CHILD in sys.argv else main(*sys.argv[1:]))
