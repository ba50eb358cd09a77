import hashlib
import re
from pathlib import Path

from agentcache_workloads.replay.accounts.provenance import commit, describe_host, describe_trace
from agentcache_workloads.replay.jobs.plan import load_plan
from agentcache_workloads.replay.spec import Selection


def test_a_trace_is_described_by_content_not_by_place(tiny: Path) -> None:
    described = describe_trace(tiny, load_plan(tiny, Selection(sessions=2, max_calls=3)))
    assert described == {
        "name": "cc_weka",
        "split": "public",
        "file": tiny.name,
        "sha256": hashlib.sha256(tiny.read_bytes()).hexdigest(),
        "jobs": 2,
        "calls": 6,
    }


def test_the_host_says_what_ran() -> None:
    host = describe_host()
    assert host["cores"] >= 1
    assert host["memory_gib"] > 0
    assert re.match(r"vllm(-cpu)? 0\.", host["engine"])


def test_the_commit_is_one_or_unknown() -> None:
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", commit() or "0" * 40)
