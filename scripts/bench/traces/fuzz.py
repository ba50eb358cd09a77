"""Damages records of every trace format and reads them: each must be named, skipped or still right, and none may hang.

    python scripts/bench/traces/fuzz.py --records 10000 --out docs/results/fuzz.csv

A damaged file is read strictly: the reader raises `InputError`, or what it returns passes the checks below. It is read
leniently too: no error at all, and what is left out is counted.
"""

import argparse
import math
import random
import sys
import tempfile
import time
from pathlib import Path

from agentcache.errors import InputError
from agentcache.files import write_csv
from agentcache_workloads.readers.damage import damaged
from agentcache_workloads.readers.open import open_trace
from agentcache_workloads.readers.parts.records import LARGEST, Skips
from agentcache_workloads.readers.trace import Session
from agentcache_workloads.replay.accounts.provenance import commit, describe_host

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "tests/workloads/readers/samples"
FILES = {
    "agentkv": ROOT / "workloads/data/cc_weka.tiny.jsonl",
    "mooncake": SAMPLES / "mooncake_sessions.jsonl",
    "timed-trace": SAMPLES / "timed_trace.jsonl",
    "bailian": SAMPLES / "bailian.jsonl",
    "tracelab": SAMPLES / "tracelab.csv",
    "openai-chat": SAMPLES / "openai_chat.jsonl",
    "weka": SAMPLES / "weka.jsonl",
    "bfcl": SAMPLES / "bfcl/BFCL_v4_multi_turn_made.json",
}
SEED = 1


def sound(session: Session) -> bool:
    """Whether what was read can be what a source meant."""
    return bool(session.sid) and all(
        0 <= call.in_tok <= LARGEST
        and 0 <= call.out_tok <= LARGEST
        and all(v is None or (math.isfinite(v) and v >= 0) for v in (call.delay_s, call.t_s, call.api_s))
        and call.turn == turn
        and (call.after is None or 0 <= call.after < turn)
        and (call.enc == "len" or call.items is not None)
        and (call.enc != "blocks" or {*map(type, call.items or ())} <= {int})
        for turn, call in enumerate(session.calls)
    )


def fuzz(form: str, records: int, folder: Path) -> dict[str, object]:
    """Damage one line a time; of a file whose lines are few, the same one again in other ways."""
    rng = random.Random(f"{SEED}/{form}")
    lines = FILES[form].read_text(encoding="utf-8").splitlines()
    path = folder / FILES[form].name
    named = right = wrong = crashed = skipped = 0
    slowest = 0.0
    started = time.perf_counter()
    for _ in range(records):
        at = rng.randrange(len(lines))
        changed = [*lines]
        changed[at] = damaged(lines[at], rng)
        path.write_text("\n".join(changed) + "\n", encoding="utf-8", errors="surrogatepass")
        begun = time.perf_counter()
        try:
            right += (ok := all(map(sound, open_trace(path, form)[1])))
            wrong += not ok
        except InputError:
            named += 1
        except Exception as error:
            crashed += 1
            print(f"{form}: {error!r} for {changed[at][:300]!r}", file=sys.stderr)
        skips = Skips()
        try:
            wrong += not all(map(sound, open_trace(path, form, skips=skips)[1]))
            skipped += skips.count > 0
        except InputError:  # a head, or all of a file, cannot be left out
            pass
        except Exception as error:
            crashed += 1
            print(f"{form}, lenient: {error!r} for {changed[at][:300]!r}", file=sys.stderr)
        slowest = max(slowest, time.perf_counter() - begun)
    host = describe_host()
    return {
        "format": form,
        "records": records,
        "named": named,
        "still_right": right,
        "skipped_leniently": skipped,
        "wrong": wrong,
        "crashed": crashed,
        "slowest_s": round(slowest, 3),
        "wall_s": round(time.perf_counter() - started, 1),
        "seed": SEED,
        "commit": commit(),
        "cpu_model": host["cpu"],
        "cores": host["cores"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000, help="damaged records a format")
    parser.add_argument("--formats", default=",".join(FILES))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for form in given.formats.split(","):
            rows.append(fuzz(form, given.records, Path(folder)))
            print(rows[-1])
    if given.out:
        write_csv(given.out, rows)
    sys.exit(any(row["wrong"] or row["crashed"] for row in rows))


if __name__ == "__main__":
    main()
