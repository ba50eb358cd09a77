"""The HTTP engine against a server without a model: what is sent, what is timed, what goes wrong."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentcache.errors import EngineError
from agentcache_workloads.replay.accounts.metrics import run_object
from agentcache_workloads.replay.engines.http.engine import run
from agentcache_workloads.replay.jobs.plan import load_plan
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.jobs.reuse_bound import known_tokens
from agentcache_workloads.replay.result import RunResult
from agentcache_workloads.replay.spec import KEY, Remote, RunSpec, Selection
from tests.waiting import until
from tests.workloads.replay.specs import run_spec
from tests.workloads.replay.stub_server import Behaviour, StubServer, running


@pytest.fixture
def spec(tiny: Path) -> RunSpec:
    return run_spec(
        trace=str(tiny),
        selection=Selection(sessions=4, max_calls=3),
        policy="vllm-lru",
        slots=2,
        time_scale=0.0,
        tokens_per_block=1,
        model="stub",
        cache_blocks=400,
        max_context_tokens=9000,
        engine="http",
    )


def at(spec: RunSpec, url: str, **changes: Any) -> RunSpec:
    return msgspec.structs.replace(spec, remote=Remote(url, **changes))


def drive(spec: RunSpec, behave: Behaviour | None = None, **changes: Any) -> tuple[RunResult, StubServer]:
    stub = StubServer(behave) if behave else StubServer()
    with running(stub) as url:
        return run(at(spec, url, **changes), lambda calls: None), stub


def test_every_call_brings_the_key_and_no_result_has_it(spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k-1")
    with running(stub := StubServer(key="k-1")) as url:
        result = run(at(spec, url), lambda calls: None)
    assert len(stub.requests) == 12 and not any(call.error for call in result.calls)
    assert b"k-1" not in msgspec.json.encode(result)


def test_every_call_is_made_forced_and_timed(spec: RunSpec) -> None:
    heard: list[int] = []
    with running(stub := StubServer(lambda body, number: ("serve", 0.002))) as url:
        result = run(at(spec, url), heard.append)
    assert heard == list(range(1, 13))
    assert len(result.jobs) == 4
    assert not any(call.error for call in result.calls)
    plan = load_plan(spec.trace, spec.selection)
    renderer = Renderer(plan.meta, 1, 512, seed=1)
    turns = {turn.id: (job, turn) for job in plan.jobs for turn in job.turns}
    sent = {tuple(body["prompt"]): body for _, body in stub.requests}
    for call in result.calls:
        prompt, output = renderer.render(*turns[call.turn])
        body = sent[tuple(prompt)]
        assert body["vllm_xargs"][KEY] == output
        assert body["vllm_xargs"]["job_id"] == turns[call.turn][0].id
        assert (body["max_tokens"], body["temperature"], body["ignore_eos"]) == (len(output), 0.0, True)
        assert (call.prompt_tokens, call.output_tokens, call.cached_tokens) == (len(prompt), len(output), 32)
        assert call.sent_s is not None
        assert call.first_token_s is not None
        assert call.finished_s is not None
        assert call.arrived_s <= call.sent_s <= call.first_token_s <= call.finished_s
        assert len(call.gaps_s) == len(output) - 1
        assert sum(call.gaps_s) == pytest.approx(call.finished_s - call.first_token_s)
    assert result.client is not None
    assert result.client.events == sum(call.output_tokens + 1 for call in result.calls)
    assert stub.peak <= 2 + 1  # the slots' jobs have no sub-agents, and one connection asked for the metrics


def test_the_run_object_says_how_it_was_made(spec: RunSpec) -> None:
    result, _ = drive(spec, output="ignore-eos", dialect="session-id")
    plan = load_plan(spec.trace, spec.selection)
    known = known_tokens(plan.jobs, Renderer(plan.meta, 1, 512, 0), 1, 32, result.calls)
    remote = Remote("http://x", output="ignore-eos", dialect="session-id")
    made = run_object(msgspec.structs.replace(spec, remote=remote), result, 1.0, known)
    assert (made["output_mode"], made["dialect"], made["oracle"]) == ("ignore-eos", "session-id", False)
    assert made["cached_tokens"] == 32 * made["calls"]
    assert made["hit_rate"]["request"] == 1.0
    assert made["client"]["retries"] == 0
    assert made["itl_s"]["p50"] is not None


def test_without_forcing_lengths_are_the_recorded_ones(spec: RunSpec) -> None:
    _, stub = drive(spec, output="ignore-eos", dialect="continuum")
    headers, body = stub.requests[0]
    assert body["min_tokens"] == body["max_tokens"]
    assert "vllm_xargs" not in body
    assert body["job_id"]
    assert "x-session-id" not in headers
    headers, body = drive(spec, output="ignore-eos", dialect="session-id")[1].requests[0]
    assert headers["x-session-id"]
    assert "job_id" not in body
    silent = msgspec.structs.replace(spec, hints=False)
    headers, body = drive(silent, output="ignore-eos")[1].requests[0]
    assert "x-session-id" not in headers
    assert "vllm_xargs" not in body


def test_what_is_tried_again_is_counted_and_timed(spec: RunSpec) -> None:
    """The first three requests are refused in three ways; times run from when the call was due."""

    def behave(body: dict[str, Any], number: int) -> tuple[str, float]:
        return ("429", "drop", "503")[number] if number < 3 else "serve", 0.0

    result, _ = drive(msgspec.structs.replace(spec, slots=1), behave, retries=3)
    assert result.client is not None
    assert (result.client.busy, result.client.refused, result.client.retries) == (2, 1, 3)
    first = result.calls[0]
    assert (first.retries, first.error) == (3, None)
    assert first.sent_s is not None
    assert first.first_token_s is not None
    assert first.first_token_s - first.sent_s > 0.5  # it waited before it tried again after the dropped connection
    assert len(result.jobs) == 4


@pytest.mark.parametrize(
    ("what", "says", "retried"),
    [
        ("500", "HTTP 500", 0),
        ("cut", "ended before the answer did", 0),
        ("wrong", "other tokens than the forced ones", 0),
        ("429", "HTTP 429", 1),
        ("silent", "timed out: ReadTimeout", 1),
    ],
)
def test_a_failed_call_gives_up_its_job_and_no_other(spec: RunSpec, what: str, says: str, retried: int) -> None:
    spoilt: list[str] = []

    def behave(body: dict[str, Any], number: int) -> tuple[str, float]:
        job = body["vllm_xargs"]["job_id"]
        if not spoilt:
            spoilt.append(job)
        return what if job == spoilt[0] else "serve", 0.0

    result, _ = drive(spec, behave, retries=1, timeout_s=3.0 if what == "silent" else 240.0)
    [failed] = [call for call in result.calls if call.error]
    assert says in (failed.error or "")
    assert failed.retries == retried
    assert len(result.jobs) == 3
    assert spoilt[0] not in {job.job for job in result.jobs}


def test_too_few_tokens_are_an_error(spec: RunSpec) -> None:
    one = msgspec.structs.replace(spec, selection=Selection(sessions=1, max_calls=1))
    result, _ = drive(one, lambda body, number: ("short", 0.0), output="ignore-eos")
    assert "were asked for" in (result.calls[0].error or "")


def test_a_server_that_serves_nothing_is_an_error_of_the_engine(spec: RunSpec) -> None:
    many = msgspec.structs.replace(spec, selection=Selection(), slots=6)
    with pytest.raises(EngineError, match="HTTP 500"):
        drive(msgspec.structs.replace(many, arrival="all-at-once"), lambda body, number: ("500", 0.0))


def test_connections_are_limited(spec: RunSpec) -> None:
    wide = msgspec.structs.replace(spec, arrival="all-at-once")
    _, stub = drive(wide, lambda body, number: ("serve", 0.001), connections=1)
    assert stub.peak == 1


def test_slots_open_one_by_one_in_a_ramp(spec: RunSpec) -> None:
    result, _ = drive(msgspec.structs.replace(spec, slots=4), ramp_s=0.4)
    assert sorted(round(job.arrived_s, 1) for job in result.jobs) == [0.0, 0.1, 0.2, 0.3]


def test_jobs_arrive_when_they_are_to(spec: RunSpec) -> None:
    result, _ = drive(msgspec.structs.replace(spec, arrival="poisson:20"))
    from agentcache_workloads.replay.jobs.arrivals import arrival_times

    jobs = load_plan(spec.trace, spec.selection).jobs
    assert sorted(job.arrived_s for job in result.jobs) == pytest.approx(arrival_times("poisson:20", jobs, 1))


def test_an_interrupted_run_goes_on_where_it_stopped(spec: RunSpec) -> None:
    """Ctrl-C in the middle: what is done comes back, and the second part runs the other jobs alone."""
    slow = msgspec.structs.replace(spec, slots=1)
    stub = StubServer(lambda body, number: ("serve", 0.0 if number < 7 else 60.0))  # the eighth is interrupted
    handler = signal.getsignal(signal.SIGINT)
    with running(stub) as url:

        def interrupt() -> None:
            until(lambda: len(stub.requests) == 8)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        first = run(at(slow, url), lambda calls: None)
    assert signal.getsignal(signal.SIGINT) is handler
    assert first.interrupted
    assert len(first.jobs) == 2
    assert not any(call.error for call in first.calls)
    stub = StubServer()
    with running(stub) as url:
        whole = run(at(slow, url), lambda calls: None, first)
    assert not whole.interrupted
    assert len(whole.jobs) == len({job.job for job in whole.jobs}) == 4
    assert len(whole.calls) == len({call.turn for call in whole.calls}) == 12
    assert len(stub.requests) == 3 * (4 - len(first.jobs))
    assert first.client is not None
    assert whole.client is not None
    assert whole.client.parts == 2
    assert min(job.arrived_s for job in whole.jobs[len(first.jobs) :]) >= first.client.wall_s
    assert whole.makespan_s > first.makespan_s
