"""From a configuration to rows: the matrix, the halves, what is kept and what is run again."""

import os
from pathlib import Path

import msgspec
import pytest

from agentcache.errors import ConfigError, InputError
from agentcache_workloads.results import run
from agentcache_workloads.results.cells import Cell, cells
from agentcache_workloads.results.columns import column
from agentcache_workloads.results.config import Figure, Workload, load_figure
from agentcache_workloads.results.measure import measure
from agentcache_workloads.results.row_code import code_hash
from agentcache_workloads.results.rows import load_rows, save_rows
from agentcache_workloads.results.run import run_figure
from agentcache_workloads.results.workload import half_of, jobs_of, turns_of

CONFIGS = Path(__file__).parents[3] / "workloads" / "configs"

TINY = """
name = "tiny"
title = "Tiny"
text = "A few cells."
engine = "ENGINE"
headline = "HEADLINE"
columns = ["HEADLINE", "holes_per_call"]
[workload]
trace = "cc_weka.tiny.jsonl"
half = "all"
[matrix]
policies = ["vllm-lru", "lru-holes", "made-up+lru", "lru @ working-set"]
slots = [2, 4]
cache_tokens = [200_000]
seeds = [1]
[full.matrix]
seeds = [1, 2]
"""


def figure(tmp_path: Path, engine: str = "fixed", headline: str = "saved_percent", extra: str = "") -> Figure:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY.replace("ENGINE", engine).replace("HEADLINE", headline) + extra)
    return load_figure(path)


def test_the_matrix_is_every_combination(tmp_path: Path) -> None:
    made = list(cells(figure(tmp_path)))
    assert len(made) == len({cell.key for cell in made}) == 2 * 4
    assert {(cell.policy, cell.admission) for cell in made} == {
        ("vllm-lru", "fcfs"),
        ("lru-holes", "fcfs"),
        ("made-up+lru", "fcfs"),
        ("lru", "working-set"),
    }
    assert len(list(cells(figure(tmp_path).with_full()))) == 2 * len(made)


def test_variants_change_the_workload_and_stock_reads_no_hints(tmp_path: Path) -> None:
    hints = (
        TINY.replace("ENGINE", "fixed")
        .replace("HEADLINE", "saved_percent")
        .replace("seeds = [1]", "hints = [true, false]", 1)
    )
    path = tmp_path / "tiny.toml"
    path.write_text('variants = [{name = "a", max_ctx = 9000}, {name = "b", time_scale = 2.0}]\n' + hints)
    made = list(cells(load_figure(path)))
    assert {(c.variant, c.workload.max_ctx, c.workload.time_scale) for c in made} == {
        ("a", 9000, 1.0),
        ("b", 131_072, 2.0),
    }
    assert {c.hints for c in made if c.policy == "vllm-lru"} == {True}
    assert {c.hints for c in made if c.policy == "lru-holes"} == {True, False}


def test_the_key_is_of_all_that_is_asked_for(tmp_path: Path) -> None:
    [one, *_] = cells(figure(tmp_path))
    fields = {name: getattr(one, name) for name in one.__struct_fields__}
    assert Cell(**fields).key == one.key
    for change in ({"seed": 9}, {"policy": "arc"}, {"hints": False}, {"cache_tokens": 1}, {"arrival": "trace"}):
        assert Cell(**{**fields, **change}).key != one.key


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_published_figures_are_sound(path: Path) -> None:
    made = load_figure(path)
    assert made.name == path.stem
    contenders = {cell.policy + (f" @ {cell.admission}" if cell.admission != "fcfs" else "") for cell in cells(made)}
    assert len({cell.key for cell in cells(made)}) == len(list(cells(made)))
    for name in (*made.columns, made.headline):
        column(name)
    for goal in made.goals:
        assert {goal.row.removesuffix(", no hints"), *goal.against} <= contenders
        column(goal.column)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('engine = "fixed"', 'engine = "quantum"'),
        ("slots = [2, 4]", 'slots = "2"'),
        ('half = "all"', 'half = "mine"'),
        ('trace = "cc_weka.tiny.jsonl"', ""),
        ("[full.matrix]", "[full.matrix]\nspeed = 3"),
        ('name = "tiny"', 'name = "tiny"\nvariants = [{ name = "x", nonsense = 1 }]'),
    ],
)
def test_bad_figures_are_refused(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(TINY.replace("ENGINE", "fixed").replace("HEADLINE", "saved_percent").replace(old, new, 1))
    with pytest.raises(ConfigError, match="nothing was run"):
        load_figure(path)


def test_halves_split_sessions_alike_everywhere(tmp_path: Path) -> None:
    assert [half_of(f"cc-{n:04d}") for n in range(6)] == ["report", "report", "tune", "tune", "tune", "tune"]
    both = {h: {job.id for job in jobs_of(workload(tmp_path, h), 1)[1]} for h in ("tune", "report", "all")}
    assert both["tune"] | both["report"] == both["all"]
    assert not both["tune"] & both["report"]
    assert {half_of(sid) for sid in both["report"]} <= {"report"}


def workload(tmp_path: Path, half: str, **changes: object) -> Workload:
    return msgspec.structs.replace(figure(tmp_path).workload, half=half, **changes)


def test_seeds_are_orders_of_whole_jobs(tmp_path: Path) -> None:
    every = workload(tmp_path, "all")
    orders = [[job.id for job in jobs_of(every, seed)[1]] for seed in (1, 2)]
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]
    _, few = jobs_of(workload(tmp_path, "all", calls=9), 1)
    assert [job.id for job in few] == orders[0][: len(few)]
    assert sum(len(job.turns) for job in few) >= 9 > sum(len(job.turns) for job in few[:-1])


def test_a_giant_comes_first(tmp_path: Path) -> None:
    _, jobs = jobs_of(workload(tmp_path, "all", max_ctx=20_000, giant_ctx=100_000), 1)
    assert max(turn.call.in_tok for turn in jobs[0].turns) > 20_000
    assert max(turn.call.in_tok for job in jobs[1:] for turn in job.turns) <= 20_000


def test_coarse_blocks_are_named_by_their_last_fine_one(tmp_path: Path) -> None:
    every = workload(tmp_path, "all")
    fine, live = turns_of(every, 1, 2, "closed", 64, True)
    coarse, coarse_live = turns_of(every, 1, 2, "closed", 512, True)
    assert all(b.keys == a.keys[7::8] for a, b in zip(fine, coarse, strict=True))
    assert coarse_live == pytest.approx(live, rel=0.05)
    with pytest.raises(ConfigError, match="no multiple"):
        turns_of(every, 1, 2, "closed", 100, True)


def test_rows_come_once_and_bad_policies_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    done = run_figure(figure(tmp_path), path, jobs=1)
    assert (done.ran, done.kept, done.skipped) == (6, 0, {"policy made-up is not installed": 2})
    again = run_figure(figure(tmp_path), path, jobs=1)
    assert (again.ran, again.kept, again.rows) == (0, 6, tuple(load_rows(path)))
    assert {row["code"] for row in again.rows} == {code_hash()}


def test_rows_of_other_code_and_of_other_cells_go(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    first = run_figure(figure(tmp_path), path, jobs=1)
    save_rows(path, [{**row, "code": "old"} for row in first.rows])
    assert run_figure(figure(tmp_path), path, jobs=1, any_code=True).kept == 6
    save_rows(path, [{**row, "code": "old"} if row["slots"] == "2" else row for row in first.rows])
    assert run_figure(figure(tmp_path), path, jobs=1).kept == 3
    save_rows(path, [*first.rows, {**first.rows[0], "key": "of another cell"}])
    assert len(run_figure(figure(tmp_path), path, jobs=1).rows) == 6


def test_an_interrupted_run_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [3]

    def until_ctrl_c(cell: Cell) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return measure(cell)

    path = tmp_path / "rows.csv"
    monkeypatch.setattr(run, "measure", until_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run_figure(figure(tmp_path), path, jobs=1)
    assert len(load_rows(path)) == 3
    monkeypatch.setattr(run, "measure", measure)
    done = run_figure(figure(tmp_path), path, jobs=1)
    assert (done.ran, done.kept) == (3, 3)
    assert [file for file in os.listdir(tmp_path) if file.startswith(".")] == []


def test_processes_make_the_same_rows(tmp_path: Path) -> None:
    paths = tmp_path / "one.csv", tmp_path / "two.csv"
    one, two = (run_figure(figure(tmp_path), path, jobs=n).rows for n, path in enumerate(paths, 1))
    drop = {"cpu_s", "date"}
    assert [{k: v for k, v in row.items() if k not in drop} for row in one] == [
        {k: v for k, v in row.items() if k not in drop} for row in two
    ]


def test_the_queueing_simulation_gives_latencies(tmp_path: Path) -> None:
    done = run_figure(figure(tmp_path, "sim", "job_latency_mean_s"), tmp_path / "rows.csv", jobs=1)
    assert done.ran == 6
    for row in done.rows:
        assert float(row["job_latency_mean_s"]) >= float(row["job_latency_no_tools_mean_s"]) > 0
        assert row["slowdown_p99"] == ""  # of six jobs there is no p99
        assert 0 < float(row["jain"]) <= 1


def test_capacity_is_a_rate_that_holds(tmp_path: Path) -> None:
    [cell, *_] = cells(figure(tmp_path, "capacity", "capacity_jobs_per_hour"))
    found = measure(cell)
    assert found["capacity_jobs_per_hour"] > 0 < found["light_load_s"]


def test_a_broken_file_of_rows_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1\n")
    with pytest.raises(InputError, match=r"rows\.csv has lines"):
        load_rows(path)
