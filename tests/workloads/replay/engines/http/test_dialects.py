from agentcache_workloads.replay.engines.http.dialects import Claims, say

HINTS: dict[str, str | int] = {"job_id": "j", "is_last_step": 0, "this_func_call": "bash"}


def test_the_same_hints_in_each_dialect() -> None:
    assert say("vllm-xargs", HINTS, "j/s") == Claims(xargs=dict(HINTS))
    continuum = say("continuum", HINTS, "j/s")
    assert continuum == Claims(body={"job_id": "j", "is_last_step": False, "this_func_call": "bash"})
    assert continuum.body["is_last_step"] is False
    assert say("session-id", HINTS, "j/s") == Claims(headers={"X-Session-ID": "j/s"})
