import pytest

from agentcache.errors import EngineError, InputError
from agentcache_workloads.replay.engines.http.server import Scrape, ask, grown, parse_metrics
from tests.workloads.replay.stub_server import StubServer, running

TEXT = """# HELP a b
# TYPE a counter
agentcache_evicted_blocks_total{tier="gpu",reason="capacity",model_name="a \\"b\\""} 3.0
agentcache_evicted_blocks_total{tier="gpu",reason="release"} 4
agentcache_evicted_blocks_total{tier="cpu",reason="release"} 100
agentcache_policy_active{policy="lru",phase="x"} 0
agentcache_policy_active{policy="return-index",phase="y"} 1
up 1e3
nonsense here
broken{x="1"} many
"""


def test_samples_are_summed_by_their_labels() -> None:
    scrape = parse_metrics(TEXT)
    assert scrape.total("agentcache_evicted_blocks_total", tier="gpu") == 7
    assert scrape.total("agentcache_evicted_blocks_total") == 107
    assert scrape.total("up") == 1000
    assert scrape.total("none") is None
    assert scrape.total("broken") is None
    assert scrape.samples["agentcache_evicted_blocks_total"][0][0]["model_name"] == 'a \\"b\\"'
    assert scrape.label("agentcache_policy_active", "policy") == "return-index"


def test_counters_count_what_they_grew_by() -> None:
    before = parse_metrics(
        "vllm:num_preemptions_total 5\nagentcache_holes_per_turn_sum 2\nagentcache_holes_per_turn_count 4"
    )
    after = parse_metrics(
        "vllm:num_preemptions_total 7\nagentcache_holes_per_turn_sum 8\nagentcache_holes_per_turn_count 8\n"
        'agentcache_idle_retained_token_seconds_total{policy="ttl"} 12.5'
    )
    found = grown(before, after)
    assert (found.preemptions, found.holes_mean, found.idle_token_s) == (2, 1.5, 12.5)
    assert found.evictions == 0  # ours counts, and has not yet
    assert found.cached_tokens is None
    assert grown(after, before).preemptions is None  # started anew in between


def test_without_metrics_nothing_is_known() -> None:
    assert set(vars_of(grown(Scrape(), Scrape()))) == {None}


def vars_of(thing: object) -> list[object]:
    return [getattr(thing, name) for name in thing.__slots__]  # type: ignore[attr-defined]


def test_a_server_says_what_it_is() -> None:
    with running(StubServer()) as url:
        server = ask(url)
        assert (server.model, server.block_size, server.cache_blocks, server.max_tokens) == ("stub", 32, 400, 100_000)
        assert (server.stock, server.policy) == (True, None)
        with pytest.raises(InputError, match="serves stub, other was expected"):
            ask(url, "other")
    with running(StubServer(metrics='agentcache_policy_active{policy="lru"} 1\nvllm:x 1')) as url:
        assert (ask(url).policy, ask(url).stock, ask(url).cache_blocks) == ("lru", False, None)
    with running(StubServer(metrics="vllm:kv_offload_store_bytes_total 0")) as url:
        assert not ask(url).stock


def test_a_server_of_ours_that_has_served_nobody_yet_is_not_taken_for_stock() -> None:
    with running(StubServer(counted='agentcache_policy_active{policy="return-index",phase="all"} 1.0\n')) as url:
        server = ask(url)
    assert (server.policy, server.stock) == ("return-index", False)


def test_a_key_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(StubServer(key="k-1")) as url:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(EngineError, match="401") as refused:
            ask(url)
        assert "OPENAI_API_KEY" in (refused.value.hint or "")
        monkeypatch.setenv("OPENAI_API_KEY", "k-1")
        assert ask(url).model == "stub"


def test_nobody_there_is_one_sentence() -> None:
    with pytest.raises(EngineError, match="no answer from"):
        ask("http://127.0.0.1:9")
