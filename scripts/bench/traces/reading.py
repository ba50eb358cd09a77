"""How long reading and checking a trace takes, and how much memory: each line in a process of its own, on one core.

    python scripts/bench/traces/reading.py --out docs/results/reading.csv

The Claude Code trace as it is carried; the same as Mooncake JSON lines with sessions; and a Mooncake trace of many
sessions that are open at once.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agentcache.files import write_csv
from agentcache_workloads.readers.open import open_trace
from agentcache_workloads.readers.writers.mooncake_writer import write_mooncake
from agentcache_workloads.replay.accounts.provenance import commit, describe_host

DATA = Path(__file__).parents[3] / "workloads/data"
CC_WEKA, MOONCAKE = DATA / "cc_weka.public.jsonl.zst", DATA / "mooncake_conv.public.jsonl.zst"
REPEATS = 5


def measure(path: Path, block_size: int | None) -> dict[str, object]:
    """One reading; the time from the call to the last session, the peak of the whole process."""
    begun = time.perf_counter()
    sessions = calls = 0
    for session in open_trace(path, block_size=block_size)[1]:
        sessions += 1
        calls += len(session.calls)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"sessions": sessions, "calls": calls, "seconds": round(seconds, 3), "peak_mib": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--block-size", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given.block_size)))
        return
    host = describe_host()
    origin = {"seed": 0, "commit": commit(), "cpu_model": host["cpu"], "cores": host["cores"]}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        as_mooncake = Path(folder) / "cc_weka.mooncake.jsonl"
        write_mooncake(as_mooncake, *open_trace(CC_WEKA))
        mooncake = Path(folder) / "mooncake_conv.mooncake.jsonl"
        write_mooncake(mooncake, *open_trace(MOONCAKE))
        files = (("cc_weka.public, agentkv", CC_WEKA, 64), ("cc_weka.public, mooncake", as_mooncake, 64))
        for what, path, size in (*files, ("mooncake_conv.public, mooncake", mooncake, 512)):
            for repeat in range(REPEATS):
                command = [sys.executable, __file__, "--one", str(path), "--block-size", str(size)]
                found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                rows.append(
                    {"what": what, "repeat": repeat, "mib": round(path.stat().st_size / 2**20, 1), **found, **origin}
                )
                print(rows[-1])
    if given.out:
        write_csv(given.out, rows)


if __name__ == "__main__":
    main()
