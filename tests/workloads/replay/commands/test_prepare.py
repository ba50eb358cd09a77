import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from agentcache.cost import CostProfile
from agentcache.errors import AgentCacheError, ConfigError, InputError
from agentcache_workloads.replay.commands.prepare import parse_seeds, prepare, split_specs
from agentcache_workloads.replay.spec import HostMemory, Options, Remote, Selection
from tests.workloads.replay.stub_server import METRICS, StubServer, running


@pytest.fixture
def options(tiny: Path, tmp_path: Path) -> Options:
    """Options that are fine, on a model that is only looked at."""
    model = tmp_path / "model"
    model.mkdir()
    config = {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
    }
    (model / "config.json").write_text(json.dumps(config))
    return Options(
        trace=tiny,
        engine="vllm",
        policies="vllm-lru,lru-holes,asymcache:lifespan_s=30,p=0.5",
        admission="fcfs,working-set:release_s=3",
        selection=Selection(),
        slots=3,
        arrival="closed",
        cache_tokens=5100,
        tokens_per_block=2,
        time_scale=0.1,
        seeds="1,2",
        hints=True,
        model=str(model),
        dtype="float32",
        block_size=32,
        max_batched_tokens=512,
        profile=None,
        mode="fused",
        json=None,
        html=None,
    )


def test_rows_of_a_seed_stand_together_and_stock_has_one_admission(options: Options) -> None:
    prepared = prepare(options)
    ws = "working-set:release_s=3"
    asymcache = "asymcache:lifespan_s=30,p=0.5"
    rows = [("vllm-lru", "fcfs"), ("lru-holes", "fcfs"), ("lru-holes", ws), (asymcache, "fcfs"), (asymcache, ws)]
    assert [(s.seed, s.policy, s.admission) for s in prepared.specs] == [(n, *row) for n in (1, 2) for row in rows]
    assert [spec.stock for spec in prepared.specs[:2]] == [True, False]
    assert {spec.cache_blocks for spec in prepared.specs} == {5100 // 32}
    assert prepared.plan.calls == 64
    assert 0 < prepared.live_pool < 3


def test_twice_the_pool_is_half_the_pressure(options: Options) -> None:
    small, large = (prepare(structs.replace(options, cache_tokens=n)).live_pool for n in (5120, 10240))
    assert small == pytest.approx(2 * large)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"engine": "gpu"}, ConfigError, "--engine 'gpu' is not available"),
        ({"engine": "http"}, ConfigError, "--engine is http, and there is no --url"),
        ({"remote": Remote("http://x")}, ConfigError, "--engine is vllm, and there is a --url"),
        ({"engine": "http", "remote": Remote("ftp://x")}, ConfigError, "--url is 'ftp://x'"),
        ({"engine": "http", "remote": Remote("http://x", output="any")}, ConfigError, "--output 'any'"),
        ({"engine": "http", "remote": Remote("http://x", dialect="any")}, ConfigError, "--dialect 'any'"),
        (
            {"engine": "http", "remote": Remote("http://x"), "host_memory": HostMemory(10**5)},
            ConfigError,
            "started here",
        ),
        ({"engine": "sim", "host_memory": HostMemory(320)}, ConfigError, "--host-tokens 320 is 10 blocks of 32 tokens"),
        ({"engine": "sim", "host_memory": HostMemory(10**5, 0.0)}, ConfigError, "a link of 0 GB/s: a speed above 0"),
        ({"engine": "sim", "host_memory": HostMemory(10**5, policy="best")}, ConfigError, "policy 'best'"),
        ({"engine": "sim", "host_memory": HostMemory(10**5, policy="belady")}, ConfigError, "belady needs future"),
        ({"engine": "sim", "host_memory": HostMemory(10**5, write="never")}, ConfigError, "--host-write 'never'"),
        ({"cache_tokens": None}, ConfigError, "--cache-tokens is missing"),
        ({"arrival": "poisson"}, ConfigError, "--arrival is 'poisson'"),
        ({"dtype": "int3"}, ConfigError, "--dtype 'int3'"),
        ({"mode": "quantum"}, ConfigError, "--mode 'quantum'"),
        ({"policies": "vllm-lru,best"}, ConfigError, "policy 'best' is not available"),
        ({"policies": ","}, ConfigError, "--policies is ','"),
        ({"policies": "lru,lru"}, ConfigError, "each once"),
        ({"policies": "asymcache:wrong=1"}, ConfigError, "no option 'wrong'"),
        ({"admission": "program:x=1"}, ConfigError, "no option 'x'"),
        ({"admission": "whatever"}, ConfigError, "is unknown"),
        ({"seeds": "1,x"}, ConfigError, "--seeds is '1,x'"),
        ({"block_size": 24}, ConfigError, "--block-size is 24"),
        ({"cache_tokens": 4700}, ConfigError, "--cache-tokens 4700 is 146 blocks of 32 tokens, expected at least"),
        ({"tokens_per_block": 64, "cache_tokens": 10**6}, ConfigError, "takes 8191"),
        ({"selection": Selection(sessions=99)}, ConfigError, "99 were asked for"),
        ({"model": "no/such/folder"}, InputError, "no model folder"),
        ({"trace": Path("none.jsonl")}, InputError, "cannot be read"),
        ({"profile": Path("none.json")}, ConfigError, "cost profile none.json cannot be read"),
        ({"chunking": "quick"}, ConfigError, "chunking 'quick' is unknown"),
        ({"json": Path("/no/such/folder/x.json")}, ConfigError, "--json /no/such/folder/x.json cannot be written"),
        ({"json": Path("same"), "html": Path("same")}, ConfigError, "--json and --html are both same"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    options: Options, change: dict[str, Any], error: type[AgentCacheError], says: str
) -> None:
    with pytest.raises(error) as caught:
        prepare(structs.replace(options, **change))
    assert says in str(caught.value)


def test_a_pool_of_just_enough_blocks_is_taken(options: Options) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare(structs.replace(options, cache_tokens=64))
    assert caught.value.hint
    enough = int(caught.value.hint.split()[2])
    assert prepare(structs.replace(options, cache_tokens=enough)).specs
    with pytest.raises(ConfigError):
        prepare(structs.replace(options, cache_tokens=enough - 1))


def test_a_model_without_a_vocabulary(options: Options) -> None:
    config = Path(options.model) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "vocab_size": None}))
    with pytest.raises(InputError, match="vocab_size None"):
        prepare(options)


def test_splitting() -> None:
    assert split_specs("--policies", "a, b:x=1,y=2 ,c:z=3", []) == ["a", "b:x=1,y=2", "c:z=3"]
    assert parse_seeds("3, 1,2") == [3, 1, 2]
    for text in ("", "1,1", "-1", "1.5", "²"):
        with pytest.raises(ConfigError):
            parse_seeds(text)


def test_a_profile_of_another_engine_is_refused(options: Options, tmp_path: Path) -> None:
    """Measured seconds are those of one model and block size."""
    for says, fields in (("with model other", {"model": "other"}), ("with block size 64", {"block_size": 64})):
        CostProfile(c_lin=1e-4, c_att=1e-9, n_points=120, **fields).save(tmp_path / "p.json")
        with pytest.raises(ConfigError, match=says):
            prepare(structs.replace(options, profile=tmp_path / "p.json"))


def over_http(options: Options, url: str, **changes: Any) -> Options:
    """Nothing is said but the URL: the rest is the server's to say."""
    left = dict.fromkeys(("policies", "cache_tokens", "model", "block_size"))
    return structs.replace(options, engine="http", remote=Remote(url), **{**left, "vocab_size": 512, **changes})


def test_what_is_not_said_the_server_says(options: Options) -> None:
    with running(StubServer()) as url:
        [spec, _, *_] = prepare(over_http(options, url)).specs
        assert (spec.policy, spec.model, spec.block_size, spec.cache_blocks) == ("vllm-lru", "stub", 32, 400)
        assert prepare(over_http(options, url, policies="mine")).specs[0].policy == "mine"
        for change, says in (
            ({"block_size": 64}, "--block-size is 64, the server's blocks have 32"),
            ({"cache_tokens": 64}, "--cache-tokens is 64, the server's pool has 12800"),
            ({"policies": "lru,arc"}, "a server runs one policy"),
            ({"vocab_size": None}, "the vocabulary of model stub is not known here"),
            ({"model": "other"}, "serves stub, other was expected"),
        ):
            with pytest.raises(AgentCacheError) as caught:
                prepare(over_http(options, url, **change))
            assert says in str(caught.value)
    stub = StubServer(metrics=METRICS + 'agentcache_policy_active{policy="return-index",phase="x"} 1')
    with running(stub) as url:
        assert prepare(over_http(options, url)).specs[0].policy == "return-index"
        with pytest.raises(ConfigError, match="says that it runs 'return-index'"):
            prepare(over_http(options, url, policies="lru"))
