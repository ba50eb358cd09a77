"""The residency actor on real Ray: one of a name, restarted when it is killed, and spoken to over the courier."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="the service needs ray[serve]")

import ray

from agentcache.api.frames import read_frame, write_frame
from agentcache.api.messages import ContextState, EndJob, Reply, Report, RetainJob, StartJob, decode, encode
from agentcache.errors import ConfigError
from agentcache.service.actor import ResidencyActor, ensure_service, stop_service
from tests.service.started import lives
from tests.waiting import until

pytestmark = pytest.mark.ray


@pytest.fixture
def namespace(cluster: str, request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.node.name
    stop_service(request.node.name)


@pytest.fixture
def courier(cluster: str, namespace: str) -> Iterator[Callable[[bytes], bytes]]:
    """A courier to the service of the namespace: bytes in, an answer's body out."""
    child = subprocess.Popen(
        [sys.executable, "-m", "agentcache.service.replicas.ray_courier", cluster, namespace],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )

    def ask(body: bytes) -> bytes:
        write_frame(child.stdin, body)  # type: ignore[arg-type]
        return read_frame(child.stdout) or b""  # type: ignore[arg-type]

    yield ask
    child.stdin.close()  # type: ignore[union-attr]
    assert child.wait(timeout=240) == 0


def started(config: dict[str, Any], namespace: str) -> Any:
    """The service, which answers: on a busy machine its process takes longer to come up than a courier waits."""
    service = ensure_service(config, namespace)
    ray.get(service.identity.remote())
    return service


def report(seq: int, *contexts: ContextState, **fields: Any) -> bytes:
    return encode(Report(engine="a", epoch="1", seq=seq, full=seq == 1, contexts=contexts, **fields))


def held(job: str, tokens: int = 100) -> ContextState:
    return ContextState(f"t/{job}", f"t/{job}", "idle", "tool", "bash", 1, tokens, ((0, tokens),))


def test_there_is_one_service_of_a_name(namespace: str) -> None:
    first, second = ensure_service({}, namespace), ensure_service({"policy": "asymcache"}, namespace)
    assert ray.get(first.identity.remote()) == ray.get(second.identity.remote())
    assert ray.get(second.snapshot.remote()).policy == "return-index"
    other = ensure_service({}, namespace, name="another")  # by mistake
    assert ray.get(other.identity.remote()) != ray.get(first.identity.remote())
    assert stop_service(namespace, "another")
    assert not stop_service(namespace, "another")


def test_options_that_cannot_be_used_are_refused_where_they_are_given(namespace: str) -> None:
    with pytest.raises(ConfigError, match="period_s is 0"):
        ensure_service({"period_s": 0.0}, namespace)


def test_the_courier_carries_reports_and_says_what_is_wrong(courier: Callable[[bytes], bytes], namespace: str) -> None:
    assert courier(report(1))[:1] == b"a"  # before there is a service
    service = started({}, namespace)
    answer = courier(report(1, held("job")))
    assert answer[:1] == b"+"
    assert decode(answer[1:], Reply).service == ray.get(service.identity.remote())[0]
    assert courier(b"\x81\xa6schema\xb4agentcache-service/0")[:1] == b"s"
    assert courier(b"noise")[:1] == b"a"
    assert courier(report(2))[:1] == b"+"


def test_a_killed_actor_comes_back_and_learns_everything_again(
    courier: Callable[[bytes], bytes], namespace: str
) -> None:
    service = started({}, namespace)
    before = decode(courier(report(1, held("job")))[1:], Reply)
    ray.kill(service, no_restart=False)
    seq, after = 2, before
    while after.service == before.service:  # it answers, or not, until it is dead
        if (answer := courier(report(seq)))[:1] == b"+":
            after = decode(answer[1:], Reply)
        seq += 1
    assert after.incarnation > before.incarnation
    assert after.resync
    courier(encode(Report(engine="a", epoch="1", seq=seq, full=True, contexts=(held("job"),))))
    assert [view.id for view in ray.get(service.snapshot.remote("t")).contexts] == ["t/job"]


def test_clients_and_operators(courier: Callable[[bytes], bytes], namespace: str) -> None:
    service = started({"lease_s": 60.0}, namespace)
    courier(report(1, held("job")))
    assert ray.get(service.apply.remote(StartJob(job="new"), "t")).outcome == "accepted"
    granted = ray.get(service.apply.remote(RetainJob(job="job", ttl_s=100.0, request_id="r"), "t"))
    assert (granted.outcome, granted.granted_s, granted.request_id) == ("clipped", 60.0, "r")
    assert ray.get(service.apply.remote(EndJob(job="job"), "thief")).outcome == "missing"
    told = ray.get(service.explain.remote("t", "job"))
    (copy,) = told.contexts[0].copies
    assert (copy.engine, copy.home, copy.rebuild_s) == ("a", True, 0.0)
    assert told.leases.keys() == {granted.lease}
    assert 10 << 20 < ray.get(service.snapshot.remote()).memory_bytes < 1 << 30


def test_it_lets_time_pass_by_itself(courier: Callable[[bytes], bytes], namespace: str) -> None:
    service = started({"heartbeat_s": 1.2}, namespace)
    courier(report(1, held("job")))
    until(lambda: not ray.get(service.snapshot.remote()).engines)
    assert ray.get(service.snapshot.remote()).counts["engines_silent"] == 1


def test_nothing_blocks_the_actors_event_loop() -> None:
    """No coroutine of the actor waits for Ray, and all its methods are coroutines."""
    methods = [name for name in vars(ResidencyActor) if not name.startswith("_")]
    assert all(asyncio.iscoroutinefunction(getattr(ResidencyActor, name)) for name in methods)
    source = Path(sys.modules[ResidencyActor.__module__].__file__ or "").read_text()
    assert "ray.get(" not in source
    assert "ray.wait(" not in source


def test_a_courier_ends_with_its_engine(cluster: str, namespace: str) -> None:
    ensure_service({}, namespace)
    script = f"""
import sys, time
from agentcache.vllm_plugin.link.courier import CourierProcess, LinkDown
carrier, told = CourierProcess({cluster!r}, {namespace!r}), sys.stdin.buffer.read()
while True:
    try:
        carrier.carry(told)
        break
    except LinkDown:  # a busy machine; a link reports again, too
        pass
print(carrier._process.pid, flush=True)
time.sleep(600)
"""
    engine = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    engine.stdin.write(report(1))  # type: ignore[union-attr]
    engine.stdin.close()  # type: ignore[union-attr]
    pid = int(engine.stdout.readline())  # type: ignore[union-attr]
    engine.send_signal(signal.SIGKILL)
    engine.wait()
    until(lambda: not lives(pid))
