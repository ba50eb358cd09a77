"""The end-to-end bench in the small: both engines start, answer alike, and no time is claimed without a GPU."""

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the engines are vLLM's")

SCRIPT = Path(__file__).parents[2] / "scripts/bench/engine/end_to_end.py"


@pytest.fixture(scope="module")
def bench() -> Any:
    spec = importlib.util.spec_from_file_location("bench_end_to_end", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_eight_short_holes_leave_something_between_them(bench: Any) -> None:
    for blocks, each in ((16, 1), (512, 4), (6144, 4)):
        gone = bench.short_holes(blocks, each)
        assert len(gone) == len(set(gone)) == 8 * each
        assert sum(index - 1 not in gone for index in gone) == 8  # that many beginnings
        assert max(gone) < blocks - 1
    assert bench.front(512, 0.25) == list(range(128))


def answer(*tokens: int, margin: float = 1.0) -> dict[str, Any]:
    return {"tokens": tokens, "logprobs": [-1.0] * len(tokens), "margins": [margin] * len(tokens)}


def test_positions_of_forced_outputs_are_judged_one_by_one(bench: Any) -> None:
    stock, ours = {"a": answer(1, 2, 3)}, {"a": answer(9, 2, 4)}
    assert bench.compare(stock, ours, "float32", forced=True)["mismatches"] == 2
    assert bench.compare(stock, ours, "float32", forced=False)["mismatches"] == 1
    assert bench.compare({"a": answer(1, margin=0.0)}, {"a": answer(2)}, "float32", forced=True)["near_ties"] == 1


@pytest.mark.vllm
def test_the_small_run_is_exact_and_claims_no_time(tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    small = ("--contexts", "512", "--jobs", "6", "--live-pool", "4")
    command = [sys.executable, str(SCRIPT), "--smoke", *small, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    ours = [row for row in rows if row["engine"] == "agentcache"]
    assert [row["part"] for row in ours] == ["ttft"] * 4 + ["replay"]
    assert {row["backend"] for row in ours} == {"SegmentBackend"}
    assert all(row["mismatches"] == "0" and int(row["tokens_compared"]) > 0 for row in rows)
    assert 0 < float(ours[-1]["max_logprob_diff"]) < 1e-3  # other kernels: other roundings, so they were compared
    assert all(int(row["cached_tokens"]) > 0 for row in ours)
    times = {row[name] for row in rows for name in ("ttft_mean_s", "job_mean_s", "to_stock") if row[name]}
    if rows[0]["gpu"] == "none":
        assert times == {"not measured"}
