"""The table of levels: the page is what its rows make, and rows are what the real scheduler says."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "scripts" / "levels"


def load(name: str) -> Any:
    sys.path.insert(0, str(FOLDER))  # its files know each other by name
    spec = importlib.util.spec_from_file_location(f"levels_{name}", FOLDER / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


table = load("table")
TOLD: dict[str, Any] = json.loads(table.ROWS.read_text())


def test_the_page_is_what_its_rows_make() -> None:
    assert table.PAGE.read_text() == table.page(TOLD["rows"], TOLD["vllm"])


def test_it_has_what_people_serve() -> None:
    assert sum("cells" in row for row in TOLD["rows"].values()) >= 40
    assert len(table.FLAGS) >= 12
    assert {one.name for one in table.ARCHITECTURES} == TOLD["rows"].keys()


def test_every_cell_has_a_level_or_vllm_says_why_not() -> None:
    for row in TOLD["rows"].values():
        for cell in row.get("cells", {}).values():
            assert cell["level"] in ("holes", "order", "admit", "off") or cell["rule"]


@pytest.mark.vllm
@pytest.mark.parametrize("name", ["Qwen3-Next"])
def test_the_scheduler_says_so_today(name: str) -> None:
    pytest.importorskip("vllm", reason="the scheduler is vLLM's")
    row = table.ask(name)
    levels = {flag: cell["level"] for flag, cell in row["cells"].items()}
    assert levels == {flag: cell["level"] for flag, cell in TOLD["rows"][name]["cells"].items()}
    assert row["groups"] == TOLD["rows"][name]["groups"]


def test_no_cell_is_empty_for_a_fault_of_ours() -> None:
    said = [str(cell["rule"]) for row in TOLD["rows"].values() for cell in row.get("cells", {}).values()]
    assert not [rule for rule in said if "agentcache" in rule]
