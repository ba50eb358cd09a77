"""The page in a real browser: it renders, nothing complains, and it fits a desk and a telephone."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentcache_workloads.report.page import write_report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="the page is looked at in a browser where there is a chromium")

FRAME = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe srcdoc="%s" style="border:0;width:%dpx;height:900px" onload="look(this.contentDocument)"></iframe>"""

LOOK = """<script>
function look(page) {
  const all = (names) => [...page.querySelectorAll(names)], root = page.documentElement;
  const spills = (e) => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === "visible";
  const box = (e) => e.getBoundingClientRect();
  document.title = JSON.stringify({
    width: root.scrollWidth,
    height: root.scrollHeight,
    wide: [...page.body.children].filter(spills).length,
    small: all("p, td, th, li, dd").filter((e) => parseFloat(getComputedStyle(e).fontSize) < 11).length,
    svgs: all("svg").length,
    drawn: all("svg").filter((e) => box(e).width > 200 && box(e).height > 80).length,
  });
}
</script>"""


@pytest.fixture
def page(result: dict[str, Any], run: Callable[..., dict[str, Any]], tmp_path: Path) -> Path:
    """A report with every part in it."""
    states = {"times_s": [0.0, 1.0, 2.0], "contexts": [{"name": "a", "states": ["3r", "2h1s", None]}]}
    whole = {
        "residency": states,
        "recomputed_tokens": 5000,
        "hit_rate": {"request": 0.5, "block": 0.4, "token": 0.4, "compute": 0.3},
        "by_kind": {kind: {"prompt_tokens": 9000, "recomputed_tokens": 100} for kind in ("first", "after_tool")},
        "client": {"cpu_share": 0.1, "retries": 1, "send_lag_s": {"p50": 0.001}},
    }
    runs = [item | whole for item in result["runs"]]
    path = tmp_path / "page.html"
    write_report(result | {"runs": runs, "left_out": [{"policy": "x", "reason": "no GPU"}]}, path)
    return path


def browse(folder: Path, address: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    profile = f"--user-data-dir={folder / 'profile'}"
    return subprocess.run(
        [*command, profile, "--enable-logging=stderr", *flags, address], capture_output=True, text=True, timeout=240
    )


def complaints(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits(page: Path, tmp_path: Path, width: int) -> None:
    frame = tmp_path / "frame.html"
    frame.write_text(LOOK + FRAME % (html.escape(page.read_text(), quote=True), width), encoding="utf-8")
    done = browse(tmp_path, frame.as_uri(), "--window-size=1400,1000", "--virtual-time-budget=2000", "--dump-dom")
    assert complaints(done.stderr) == []
    title = re.search("<title>(.*?)</title>", done.stdout)
    assert title, done.stderr[-500:]
    seen = json.loads(html.unescape(title[1]))
    assert seen["width"] <= width, "nothing but tables may be wider than the window, and these scroll"
    assert (seen["wide"], seen["small"]) == (0, 0)
    assert seen["svgs"] == seen["drawn"] == 4
    assert seen["height"] > 900


def test_the_page_prints(page: Path, tmp_path: Path) -> None:
    paper = tmp_path / "page.pdf"
    done = browse(tmp_path, page.as_uri(), f"--print-to-pdf={paper}", "--no-pdf-header-footer")
    assert complaints(done.stderr) == []
    assert paper.read_bytes().startswith(b"%PDF")
