from collections.abc import Callable
from typing import Any

import pytest

from agentcache_workloads.report.summary import common, field, rows, verdict

Make = Callable[..., dict[str, Any]]


def test_field_follows_its_path_and_is_none_where_anything_is_absent() -> None:
    run = {"ttft_s": {"all": {"mean": 1.5}}, "queue_s": None, "errors": 0}
    assert field(run, "ttft_s.all.mean") == 1.5
    assert field(run, "errors") == 0
    assert field(run, "queue_s.mean") is None
    assert field(run, "nowhere") is None
    assert field(None, "errors") is None


def test_seeds_of_a_policy_are_one_row_with_ratios_paired_by_seed(run: Make) -> None:
    runs = [run("vllm-lru", 10, 1), run("vllm-lru", 20, 2), run("vllm-lru", 40, 3)]
    runs += [run("asymcache", 9, 1), run("asymcache", 16, 2), run("asymcache", 20, 3)]
    stock, ours = rows(runs)
    assert (stock.label, ours.label) == ("vllm-lru", "asymcache")
    assert stock.is_stock
    assert not ours.is_stock
    assert stock.value("job_latency_s.mean") == 20
    assert stock.ratio("job_latency_s.mean") == 1
    assert ours.value("job_latency_s.mean") == 16
    assert ours.ratios("job_latency_s.mean") == [0.9, 0.8, 0.5]
    assert ours.ratio("job_latency_s.mean") == 0.8
    assert len(ours.latencies_s) == 72
    assert ours.latencies_s == sorted(ours.latencies_s)


def test_a_seed_without_a_stock_run_has_no_ratio(run: Make) -> None:
    _, ours = rows([run("vllm-lru", 10, 1), run("asymcache", 9, 1), run("asymcache", 1, 2)])
    assert ours.ratios("job_latency_s.mean") == [0.9]


def test_only_runs_under_equal_conditions_are_compared(run: Make) -> None:
    table = rows([run("vllm-lru", 10), run("asymcache", 5, cache_tokens=9000), run("lru", 8, slots=2)])
    assert [row.ratio("job_latency_s.mean") for row in table] == [1, None, None]
    assert [row.label for row in table][1] == "asymcache (slots 12, cache tokens 9000)"


def test_admission_and_hints_are_compared_with_stock_first_come_first_served(run: Make) -> None:
    table = rows(
        [
            run("vllm-lru", 5, admission="working-set"),
            run("vllm-lru", 10),
            run("asymcache", 4, admission="working-set", hints=False),
        ]
    )
    assert [row.ratio("job_latency_s.mean") for row in table] == [0.5, 1, 0.4]
    assert [row.is_stock for row in table] == [False, True, False]
    assert table[2].label == "asymcache (working-set, hints off)"
    assert (table[2].name, table[2].admission) == ("asymcache (hints off)", "working-set")


def test_total_is_the_sum_of_the_seeds_that_know_it(run: Make) -> None:
    (row,) = rows([run("lru", 1, seed, errors=errors) for seed, errors in enumerate((2, None, 0))])
    assert row.total("errors") == 2
    assert row.total("queue_s.mean") is None


def test_share_is_of_the_prompt_tokens(run: Make) -> None:
    (row,) = rows([run("lru-holes", 1, after_hole=30_000)])
    assert row.share("cached_tokens_after_hole") == 0.15
    (empty,) = rows([run("lru-holes", 1, prompt_tokens=0)])
    assert empty.share("cached_tokens") is None


@pytest.mark.parametrize(
    ("means_s", "sentence"),
    [
        ({"vllm-lru": 40, "asymcache": 26}, "asymcache had the lowest mean job latency, 26.00 s: 0.65 times that of "),
        (
            {"vllm-lru": 20, "asymcache": 26, "lru-holes": 25},
            "vllm-lru had the lowest mean job latency, 20.00 s: stock vLLM won; the best of the others, lru-holes, took"
            " 1.25 times as long.",
        ),
        ({"asymcache": 26, "lru": 30}, "asymcache had the lowest mean job latency, 26.00 s; there is no stock run."),
        ({"vllm-lru": 20}, "vllm-lru had the lowest mean job latency, 20.00 s."),
    ],
)
def test_verdict_says_who_won_whoever_it_was(run: Make, means_s: dict[str, float], sentence: str) -> None:
    assert verdict(rows([run(policy, mean_s) for policy, mean_s in means_s.items()])).startswith(sentence)


def test_a_tie_is_no_victory_and_a_pool_for_everything_is_said(run: Make) -> None:
    tie = "All have the same mean job latency, 20.00 s."
    assert verdict(rows([run("vllm-lru", 20), run("lru", 20.001)])) == tie
    roomy = verdict(rows([run("vllm-lru", 20, live_pool=0.1), run("lru", 20, live_pool=0.1)]))
    assert roomy.startswith(tie + " The pool holds nearly all")


def test_verdict_without_a_finished_job(run: Make) -> None:
    assert verdict(rows([run("vllm-lru", 1, job_latency_s=None)])).startswith("No job finished")


def test_common_is_none_where_runs_differ(run: Make) -> None:
    runs = [run("vllm-lru", 1), run("lru", 1)]
    assert common(runs, "slots") == 12
    assert common(runs, "policy") is None
    assert common(runs, "queue_s") is None


def test_oracles_and_interrupted_runs_are_marked_wherever_they_stand(run: Make) -> None:
    labels = [row.label for row in rows([run("lru", 1), run("lru", 1, oracle=True), run("arc", 1, interrupted=True)])]
    assert labels == ["lru", "lru (oracle: it was told the pauses)", "arc (interrupted)"]
