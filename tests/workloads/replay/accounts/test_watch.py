"""The looks at a simulated run, and what they say of it."""

import re
from pathlib import Path

from agentcache.cost import CostProfile
from agentcache_workloads.replay.accounts.watch import Watcher
from agentcache_workloads.replay.engines.queueing import simulate
from agentcache_workloads.replay.jobs.plan import load_plan
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.spec import Selection
from tests.workloads.replay.specs import sim_spec


def test_looks_are_few_evenly_apart_and_follow_the_first_contexts(tiny: Path) -> None:
    plan = load_plan(tiny, Selection(max_calls=6))
    watcher = Watcher(samples=10, contexts=3)
    spec, renderer, profile = (
        sim_spec("lru-holes", 3000, 64, slots=3),
        Renderer(plan.meta, 64, 512, 0),
        CostProfile.named("h20-like"),
    )
    result = simulate(spec, plan.jobs, renderer, profile, watcher=watcher)
    assert result.residency is not None
    times, contexts = result.residency["times_s"], result.residency["contexts"]
    assert 5 <= len(times) < 20
    assert times == sorted(times)
    assert len(contexts) == 3
    assert all(len(context["states"]) == len(times) for context in contexts)
    seen = [text for context in contexts for text in context["states"] if text]
    assert all(re.fullmatch(r"(\d+[rsh])+", text) for text in seen)
    assert any("h" in text for text in seen)
    assert any("r" in text for text in seen)
    # Looking changes nothing.
    blind = simulate(spec, plan.jobs, renderer, profile)
    assert blind.residency is None
    assert blind.calls == result.calls
