"""Workloads of messages, of recycled sessions, of constant pauses and of the BFCL generator, as figures name them."""

import json
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from agentcache_workloads.generators.bfcl_search import BfclSearch
from agentcache_workloads.results.cells import cells, trace_hash
from agentcache_workloads.results.config import Workload, load_figure
from agentcache_workloads.results.measure import _host_memory
from agentcache_workloads.results.workload import jobs_of

CONFIGS = Path(__file__).parents[3] / "workloads" / "configs"


def test_messages_become_jobs_with_blocks_that_come_again() -> None:
    workload = Workload(trace="miniswe_text.public.jsonl.zst", half="all", calls=None, pause_s=1.0, jobs=40)
    meta, jobs = jobs_of(workload, 1)
    assert (len(jobs), meta.block_size) == (48, 64)
    turns = [turn for job in jobs for turn in job.turns]
    assert {turn.pause_s for turn in turns if turn.after} == {1.0}
    assert {turn.call.stop for turn in turns if turn.call.tools} == {"tool_use"}
    ends = [set(job.turns[-1].call.items or ()) for job in jobs]
    assert len(set.union(*ends)) > 2.5 * max(map(len, ends))


def test_the_bfcl_generator_is_a_workload_of_a_seed() -> None:
    workload = Workload(bfcl=BfclSearch(jobs=20), half="all", calls=None)
    assert len(jobs_of(workload, 1)[1]) == 20
    assert [len(job.turns) for job in jobs_of(workload, 1)[1]] != [len(job.turns) for job in jobs_of(workload, 2)[1]]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"trace": "x", "bfcl": {}}, Workload)


def test_fields_that_are_not_used_leave_the_keys_of_published_rows() -> None:
    cell = next(cells(load_figure(CONFIGS / "mooncake.toml")))
    asked = msgspec.to_builtins(cell)
    for name in ("bfcl", "pause_s", "jobs"):
        assert asked["workload"].pop(name) is None
    for name in ("host_pools", "host_gbps"):
        assert asked.pop(name) is None
    text = json.dumps([asked, trace_hash(cell.workload.trace or "")], sort_keys=True)
    assert cell.key == sha256(text.encode()).hexdigest()[:16]


def test_a_tier_is_one_more_axis_and_has_the_order_of_its_pool() -> None:
    figure = load_figure(CONFIGS / "tiers-closed.toml")
    made = list(cells(figure))
    assert {cell.variant for cell in made} == {
        f"tier {p:g}x, {g:g} GB/s" for p in figure.matrix.host_pools for g in figure.matrix.host_gbps
    }
    assert len({cell.key for cell in made}) == len(made)
    tiers = {cell.policy: _host_memory(cell) for cell in made if cell.cache_tokens == 250_000 and cell.host_pools == 2}
    assert {policy: (tier.tokens, tier.policy) for policy, tier in tiers.items() if tier} == {
        "vllm-lru": (500_000, "lru"),
        "lru": (500_000, "lru"),
        "return-index": (500_000, "return-index"),
    }


@pytest.mark.parametrize("name", ["weka", "miniswe", "bfcl"])
def test_the_figures_of_continuum_name_every_baseline_with_and_without_order(name: str) -> None:
    figure = load_figure(CONFIGS / f"continuum-{name}.toml")
    listed = {(cell.policy, cell.admission) for cell in cells(figure)}
    for rule in ("-always", "-fixed:s=2", "-preview", "", "-oracle"):
        assert {(f"continuum{rule}+lru", order) for order in ("fcfs", "program-fcfs+retained")} <= listed
    assert {
        ("vllm-lru", "fcfs"),
        ("return-index", "working-set"),
        ("continuum+asymcache", "program-fcfs+retained"),
    } <= (listed)
