"""The page of the kernels says what the measured files say: no more, and nothing that was not measured."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

KERNELS = Path(__file__).parents[2] / "kernels"
pytest.importorskip("matplotlib", reason="the plot is drawn with it")


@pytest.fixture(scope="module")
def page() -> Any:
    spec = importlib.util.spec_from_file_location("kernels_bench_page", KERNELS / "bench/page.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(ratio: str, what: str = "ours", case: str = "decode 1 at 8K", gpu: str = "A GPU") -> dict[str, str]:
    return {"case": case, "what": what, "ratio": ratio, "goal": "0.8", "gpu": gpu, "tflops": "650.1"}


def test_page_and_plot_are_what_the_files_say() -> None:
    command = [sys.executable, str(KERNELS / "bench/page.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_measured_number_stands_outside_of_the_parts_that_come_from_files() -> None:
    text = (KERNELS / "README.md").read_text()
    own = re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", "", text, flags=re.DOTALL)
    units = r"(?:us|µs|ms|TFLOP/s|TB/s|GB/s|tokens/s|seconds|registers|mismatches|x|%)"
    assert re.findall(rf"\d[\d.,]*\s?{units}(?!\w)", own) == []


def test_what_was_measured_is_a_median_over_shapes(page: Any) -> None:
    rows = [row("1.5"), row("0.5"), row("2.5"), row("", what="copy ceiling"), row("", case="ceiling", what="product")]
    told = page.speed_table(rows)
    assert "Measured on A GPU: product 650.1." in told
    assert "| decode 1 at 8K | copy ceiling | 0.8x | 1.50x | 0.50x |" in told
    assert page.NOT_MEASURED not in page.plot(rows)


def test_what_was_not_measured_is_said_so_in_table_and_plot(page: Any) -> None:
    rows = [row(page.NOT_MEASURED, gpu=page.NOT_MEASURED)]
    told = page.speed_table(rows)
    assert told.startswith("Not measured") and "| 0.8x | not measured | not measured |" in told
    assert page.NOT_MEASURED in page.plot(rows)
    both = [*rows, row("1.0", case="other")]
    assert page.plot(both).count(f">{page.NOT_MEASURED}<") == 1


def test_a_plot_of_the_same_rows_is_the_same_file(page: Any) -> None:
    rows = page.read("results.csv")
    assert page.plot(rows) == page.plot(rows)
