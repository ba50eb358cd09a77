"""Draw speed.svg and write the measured parts of kernels/README.md, all from the files beside this one.

    python kernels/bench/page.py           # write both
    python kernels/bench/page.py --check   # exit code 1 if one of them says anything else than the files

results.csv is of `run.py`, compile.csv of `python -m agentcache_kernels.compile --out`, exact.json of
`agentcache verify --attention triton --json`. In the README a part stands between `<!-- NAME -->` and `<!-- /NAME -->`.
"""

import argparse
import csv
import io
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
README, PLOT = HERE.parent / "README.md", HERE / "speed.svg"
NOT_MEASURED = "not measured"
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "agentcache", "font.family": "sans-serif", "font.size": 9}
Row = dict[str, str]


def read(name: str) -> list[Row]:
    with (HERE / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def ratios(rows: Sequence[Row], case: str) -> list[float]:
    """The ratios of ours over all head shapes and block sizes of a case; empty where it was not measured."""
    mine = [row["ratio"] for row in rows if row["case"] == case and row["what"] == "ours"]
    return sorted(float(ratio) for ratio in mine if ratio != NOT_MEASURED)


def cases(rows: Sequence[Row]) -> list[str]:
    return [case for case in dict.fromkeys(row["case"] for row in rows) if case != "ceiling"]


def goal(rows: Sequence[Row], case: str) -> float:
    return next(float(row["goal"]) for row in rows if row["case"] == case)


def speed_table(rows: Sequence[Row]) -> str:
    """Each case with its goal: the median and the worst ratio over head shapes and block sizes."""
    gpus = sorted({row["gpu"] for row in rows} - {NOT_MEASURED})
    lines = [
        f"Measured on {', '.join(gpus)}: {_ceilings(rows)}."
        if gpus
        else "Not measured: no row of [bench/results.csv](bench/results.csv) is of a GPU, so nothing is claimed.",
        "",
        "| case | compared with | goal | median | worst |",
        "|---|---|---|---|---|",
    ]
    for case in cases(rows):
        others = dict.fromkeys(row["what"] for row in rows if row["case"] == case and row["what"] != "ours")
        found = ratios(rows, case)
        told = [f"{median(found):.2f}x", f"{found[0]:.2f}x"] if found else [NOT_MEASURED] * 2
        lines.append(" | ".join([f"| {case}", ", ".join(others), f"{goal(rows, case):g}x", *told]) + " |")
    return "\n".join(lines)


def _ceilings(rows: Sequence[Row]) -> str:
    return ", ".join(f"{row['what']} {row['tflops']}" for row in rows if row["case"] == "ceiling")


def compiled_sentence(rows: Sequence[Row]) -> str:
    """What the compiler said, in numbers."""
    spills = sum(int(row["spill_bytes"]) for row in rows)
    versions, targets = (", ".join(dict.fromkeys(row[name] for row in rows)) for name in ("triton", "target"))
    return (
        f"{len(rows)} kernels for {targets} with Triton {versions}: {spills} bytes spilled, at most "
        f"{max(int(row['registers']) for row in rows)} registers a thread and "
        f"{max(int(row['shared_bytes']) for row in rows):,} bytes of shared memory a program."
    )


def exact_sentence(found: dict[str, Any]) -> str:
    """What `agentcache verify` has found with these kernels inside vLLM."""
    return (
        f"{found['patterns']} patterns, {found['holes']} holes, {found['tokens_after_hole']:,} tokens reused behind "
        f"holes, {found['tokens_compared']:,} tokens compared: {found['mismatches']} mismatches, log-probabilities "
        f"within {found['max_logprob_diff']:.1e}, the negative control "
        f"{'red' if found['negative_control_failed'] else 'GREEN, so this shows nothing'}."
    )


def parts() -> dict[str, str]:
    exact = json.loads((HERE / "exact.json").read_text(encoding="utf-8"))
    return {
        "speed": speed_table(read("results.csv")),
        "compiled": compiled_sentence(read("compile.csv")),
        "exact": exact_sentence(exact),
    }


def filled(text: str) -> str:
    """The README with its measured parts as the files have them."""
    for name, part in parts().items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        found = list(pattern.finditer(text))
        if len(found) != 1:
            raise SystemExit(f"{README} has not exactly one part {name}")
        text = f"{text[: found[0].end(1)]}{part}\n{text[found[0].start(2) :]}"
    return text


def plot(rows: Sequence[Row]) -> str:
    """A bar a case: how often it is as fast as the best of what it is compared with, its goal as a mark."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names = cases(rows)
    with rc_context(STYLE):
        figure = Figure(figsize=(7.4, 0.8 + 0.26 * len(names)), layout="constrained")
        axes = figure.subplots()
        for place, name in enumerate(names):
            found = ratios(rows, name)
            if found:
                axes.barh(place, median(found), color="#2f7fb8", height=0.6)
                axes.plot([found[0], found[-1]], [place, place], color="black", linewidth=1)
            else:
                axes.text(0.03, place, NOT_MEASURED, va="center", color="#8a5a00")
            axes.plot([goal(rows, name)] * 2, [place - 0.4, place + 0.4], color="#d5652a", linewidth=2)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("speed over the best baseline (line: all shapes; orange: goal)")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    given = parser.parse_args()
    texts = {README: filled(README.read_text(encoding="utf-8")), PLOT: plot(read("results.csv"))}
    stale = [path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{path.name}: {'differs from the files' if given.check else 'written'}")
        if not given.check:
            path.write_text(texts[path], encoding="utf-8")
    return 1 if stale and given.check else 0


if __name__ == "__main__":
    sys.exit(main())
