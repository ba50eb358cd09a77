"""The page of printed numbers: ours beside them, dashes where there are none, and the figures that it reads."""

import csv
from pathlib import Path

import pytest

from agentcache_workloads.results.cells import cells
from agentcache_workloads.results.config import Figure, load_figure
from agentcache_workloads.results.paper import BASELINES, PAPER, PUBLISHED, STOCK, paper_page, write_paper
from agentcache_workloads.results.rows import Row

CONFIGS = Path(__file__).parents[3] / "workloads" / "configs"


def figure(name: str) -> Figure:
    return load_figure(CONFIGS / f"{name}.toml")


def rows(name: str, value: float, **changes: float) -> list[Row]:
    """A row for every cell of a figure, all columns `value`, other in the rows of some policies."""
    made = []
    for cell in cells(figure(name)):
        number = str(changes.get(cell.policy, value))
        columns = ("ttft_mean_s", "tpot_mean_ms", "cached_percent", "request_hit_percent", "token_hit_percent")
        made.append(
            {
                "variant": cell.variant, "arrival": cell.arrival, "profile": cell.profile, "slots": str(cell.slots),
                "cache_tokens": str(cell.cache_tokens), "block_size": str(cell.block_size), "seed": str(cell.seed),
                "policy": cell.policy, "admission": cell.admission, "hints": str(cell.hints),
                "job_latency_mean_s": number, **dict.fromkeys(columns, number),
            }
        )  # fmt: skip
    return made


def section(page: str, title: str) -> str:
    return page[page.index(f"## {title}") :].partition("\n## ")[0]


def test_the_page_can_be_written_before_there_are_rows(tmp_path: Path) -> None:
    write_paper(tmp_path, CONFIGS)
    page = (tmp_path / "paper.md").read_text()
    assert "| loogle, low | 0.04 | 1.90, - | 1.98, - | 2.03, - | - |" in page
    assert page.endswith("No rows yet.\n")
    assert "**Incomplete**, and not final: paper-70b 0 of 216, paper-8b 0 of 216," in page


def test_ours_stand_beside_the_printed_numbers() -> None:
    page = paper_page({"paper-8b": rows("paper-8b", 2.0, **{PAPER: 1.25})})
    ours = section(page, "AsymCache: speed-ups, Llama-3.1-8B")
    assert "| longbench, low | 0.04 | 1.40 [1.35], 1.60 | 1.42, 1.60 | 1.53, 1.60 | 1.00 |" in ours
    # 12 cells; the largest share of a printed number is of 1.21
    assert f"from {1.6 / 1.9:.2f} to {1.6 / 1.21:.2f} over 12 cells" in ours
    assert "1.86, -" in section(page, "AsymCache: speed-ups, Llama-3.1-70B")


def test_tables_of_hits_times_and_parameters() -> None:
    page = paper_page(
        {
            "paper-table2": rows("paper-table2", 4.0, **{STOCK: 7.0}),
            "paper-sweep": rows("paper-sweep", 20.0, **{f"{PAPER}:p=0.5,lifespan_s=460": 30.0}),
        }
    )
    assert "| low | LRU | 6.582, 7.00 | 31.18, 7.0 | 28.7, 7.0 |" in page
    assert "| low | AsymCache with an O(n) evictor | 5.712, - | 29.25, - | 28, - |" in page
    assert "| 460 | 20.0 | 30.0 | 20.0 | 20.0 | 20.0 |" in page
    assert "| learnt | 20.0" in page


def test_jobs_and_ranges() -> None:
    page = paper_page(
        {
            "paper-bfcl-8b": rows("paper-bfcl-8b", 10.0, **{f"continuum+{PAPER}": 8.0}),
            "paper-arc-qa": rows("paper-arc-qa", 10.0, arc=13.0),
        }
    )
    assert "1.181, 1.250 | 1.074, 1.250 | 1.070, 1.250" in page
    assert "| QuALITY (questions about long documents) | +1.2 to +10.8 | +3.0 to +3.0, median +3.0 | 12 |" in page
    assert "| chat | +1.1 to +2.1 | - | 0 |" in page


def test_every_printed_cell_has_a_cell_of_ours() -> None:
    with (PUBLISHED / "asymcache-speedups.csv").open() as file:
        printed = list(csv.DictReader(file))
    assert len(printed) == 48
    for model in ("8b", "70b"):
        ours = {cell.variant for cell in cells(figure(f"paper-{model}"))}
        assert {f"{r['data']} {r['dispersion']} {r['qps']}" for r in printed if r["model"] == model} == ours
        assert {*BASELINES.values(), PAPER} <= set(figure(f"paper-{model}").matrix.policies)
    assert all(float(row[name]) >= 1.0 for row in printed for name in BASELINES)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("paper-*.toml")), ids=lambda path: path.stem)
def test_the_profiles_that_figures_name_are_here(path: Path) -> None:
    for profile in load_figure(path).matrix.profiles:
        assert profile == "h20-like" or (CONFIGS.parents[1] / profile).is_file()
