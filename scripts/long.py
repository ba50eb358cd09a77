"""What takes too long for every change: each part runs to its end, and what it said last is kept with its commit.

    python scripts/long.py                      # all parts, hours on two cores
    python scripts/long.py --only model-check paths
    python scripts/long.py --share 0.01 --only soak-service traces    # as CI does: a hundredth of the work

A part that fails does not keep the others from running; the exit code is then 1. Each part has a section of its own in
`docs/long.md`, which stays as it is until that part runs whole again.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from agentcache.files import write_whole
from agentcache_workloads.replay.accounts.provenance import commit, describe_host

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "long.md"
KEPT_LINES = 12

Command = Callable[[float, Path], list[str]]


def python(*words: str) -> list[str]:
    return [sys.executable, *words]


def agentcache(*words: str) -> list[str]:
    return python("-c", "from agentcache.cli.main import main; main()", *words)


def count(whole: int, share: float) -> str:
    return str(max(round(whole * share), 1))


def soak(part: str, share: float, *flags: str) -> list[str]:
    turns = [count(whole, share) for whole in (10_000, 100_000, 1_000_000)]
    return python("scripts/bench/soak/soak.py", "--part", part, *flags, "--turns", *turns)


PARTS: dict[str, tuple[str, Command]] = {
    "model-check": (
        "Schedulers alone, one to three steps ahead, over a device that keeps books.",
        lambda share, _: agentcache("verify", "--device", "books", "--patterns", count(10_000, share)),
    ),
    "paths": (
        "Every path of the scheduler on real engines, stock vLLM beside where it may be wrong itself.",
        lambda share, folder: agentcache(
            *("verify", "--paths", "all", "--patterns", count(500, share), "--json", str(folder / "paths.json"))
        ),
    ),
    "soak-engine": (
        "A million turns through the books of an engine that reports to a service.",
        lambda share, _: soak("engine", share, "--link"),
    ),
    "soak-service": (
        "As many turns through the books of the service.",
        lambda share, _: soak("service", share),
    ),
    "traces": (
        "Damaged records of every trace format.",
        lambda share, folder: python(
            *("scripts/bench/traces/fuzz.py", "--records", count(10_000, share), "--out", str(folder / "fuzz.csv"))
        ),
    ),
    "properties": (
        "Property tests of the core with examples of their own, 500 each.",
        lambda *_: python("-m", "pytest", "-q", "--hypothesis-profile", "explore", "tests/policy", "tests/residency"),
    ),
    "upstream": (
        "vLLM's own tests of its core, with our classes in place.",
        lambda *_: python("scripts/upstream/upstream.py", "--out", "docs/results/upstream.txt"),
    ),
    "beside": (
        "Five releases of vLLM beside which we are merely installed.",
        lambda *_: python("scripts/drift/beside.py"),
    ),
}
"""Name -> what it is, and its command for a share of the work and a folder for its files."""


def run(name: str, share: float) -> tuple[bool, float, list[str]]:
    """Whether a part passed, its seconds, and the last lines that it printed."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        words = PARTS[name][1](share, Path(folder))
        done = subprocess.run(
            words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
        )
    return done.returncode == 0, time.monotonic() - begun, done.stdout.splitlines()[-KEPT_LINES:]


def section(name: str, passed: bool, seconds: float, lines: list[str]) -> str:
    host = describe_host()
    said = "\n".join(line.rstrip()[:160] for line in lines)
    origin = f"{commit()}, {host['cores']} cores of {host['cpu']}"
    result = f"{'passed' if passed else 'FAILED'} in {seconds:.0f} s, at {origin}"
    return f"## {name}\n\n{PARTS[name][0]} {result}.\n\n```\n{said}\n```\n"


def keep(name: str, text: str) -> None:
    """Put a section in place of the older one of its name, or at the end."""
    page = (
        PAGE.read_text() if PAGE.exists() else "# The last long runs\n\n`make long`; each part as it last ran whole.\n"
    )
    older = re.compile(rf"^## {re.escape(name)}\n.*?(?=^## |\Z)", re.M | re.S)
    page = older.sub(lambda _: f"{text}\n", page) if older.search(page) else f"{page.rstrip()}\n\n{text}"
    write_whole(PAGE, f"{page.rstrip()}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--share", type=float, default=1.0, help="of the work; below 1 nothing is kept")
    options = parser.parse_args()
    failed = []
    for name in options.only:
        passed, seconds, lines = run(name, options.share)
        print(
            f"{name}: {'passed' if passed else 'FAILED'} in {seconds:.0f} s: {lines[-1] if lines else ''}", flush=True
        )
        if not passed:
            failed.append(name)
            print("\n".join(lines), flush=True)
        if options.share >= 1:
            keep(name, section(name, passed, seconds, lines))
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
