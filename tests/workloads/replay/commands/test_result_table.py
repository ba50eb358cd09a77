from typing import Any

from rich.console import Console

from agentcache_workloads.replay.commands.result_table import result_table


def run(policy: str, seed: int, latency_s: float | None, cached: int | None) -> dict[str, Any]:
    return {
        "policy": policy,
        "admission": "fcfs",
        "seed": seed,
        "jobs": 2,
        "calls": 8,
        "slots": 2,
        "cache_tokens": 3200,
        "live_pool": 2.5,
        "errors": 0,
        "job_latency_s": {"mean": latency_s, "p90": latency_s},
        "ttft_s": {"all": {"mean": 1.0}},
        "prompt_tokens": 1000,
        "cached_tokens": 250,
        "cached_tokens_after_hole": cached,
        "computed_tokens": 750,
        "makespan_s": 9.0,
    }


def shown(runs: list[dict[str, Any]]) -> list[str]:
    console = Console(width=150)
    with console.capture() as capture:
        console.print(result_table(runs))
    return capture.get().splitlines()


def test_ratios_are_to_stock_on_the_same_seed() -> None:
    runs = [run("vllm-lru", 1, 10.0, 0), run("asymcache", 1, 5.0, 100), run("vllm-lru", 2, 20.0, 0)]
    runs.append(run("asymcache", 2, 30.0, 100))
    first, second = (line for line in shown(runs) if "asymcache" in line)
    assert "5.00 (0.50)" in first
    assert "30.00 (1.50)" in second
    assert "25.0%" in first
    assert "10.0%" in first
    assert any("live/pool 2.50" in line for line in shown(runs))
    assert all("…" not in line for line in shown(runs))


def test_what_is_unknown_is_a_dash_and_without_stock_there_is_no_ratio() -> None:
    lines = shown([run("lru", 1, None, None)])
    assert not any("ratio" in line for line in lines)
    assert next(line for line in lines if "lru" in line).count(" - ") == 3


def test_counts_may_be_unknown_and_oracles_are_marked() -> None:
    unknown = run("lru", 1, 10.0, None) | {"computed_tokens": None, "cached_tokens": None, "oracle": True}
    [line] = [line for line in shown([unknown]) if "lru (oracle)" in line]
    assert line.split()[-3:] == ["-", "9.00", "0"]


def test_what_came_from_host_memory_has_a_column_where_some_run_had_one() -> None:
    runs = [run("vllm-lru", 1, 10.0, 0), run("asymcache", 1, 5.0, 100) | {"host_memory": {"loaded_tokens": 60}}]
    assert not any("loaded" in line for line in shown(runs[:1]))
    stock, ours = (line for line in shown(runs) if "10.00" in line or "5.00" in line)
    assert any("loaded" in line for line in shown(runs))
    assert "  6.0%" in ours and "6.0%" not in stock
