"""What a run is told, from the flags to the rows: what users ask for, and the specification of each run of it.

A field stands here once. Its annotation says how users give it: the flag's own name where it differs, its bounds, what
it means. A field without one is not theirs to give. `Literal` lists all that a field can be.
"""

from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from typer import Argument, Option

from agentcache_workloads.readers.open import FORMATS
from agentcache_workloads.readers.pauses import MODELS as PAUSES

STOCK = "vllm-lru"
"""The row of stock vLLM, AgentCache switched off; every ratio is to it."""

STOCK_ADMISSION = "fcfs"
POLICIES = f"{STOCK},lru-holes,return-index"
MODEL = "demo-llama"
BLOCK_SIZE = 32
ARRIVALS = ("closed", "poisson:JPS", "gamma:JPS,CV", "trace", "all-at-once")

KEY = "forced_output"
"""Where in `SamplingParams.extra_args` the token ids to say stand; a request without it is not touched."""

EngineName = Literal["vllm", "sim", "http"]
Dtype = Literal["float32", "bfloat16", "float16"]
Mode = Literal["fused", "sequential"]
Output = Literal["forced", "ignore-eos"]
HostWrite = Literal["evicted", "through"]
Dialect = Literal["vllm-xargs", "continuum", "session-id"]


class Selection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which part of a trace is replayed: the first jobs in the SHA-256 order of the ids of those that keep a call.

    A job is cut before its first call above `max_ctx`. `pauses_seed` is that of the model of pauses.
    """

    sessions: Annotated[int | None, Option(min=1, help="Jobs to take, by SHA-256 order; default all.")] = None
    max_calls: Annotated[int | None, Option(min=1, help="First calls of each job; default all.")] = None
    max_ctx: Annotated[int | None, Option(min=1, help="Prompt tokens of the trace above which a job is cut.")] = None
    max_pause_s: Annotated[
        float, Option("--max-pause", min=0.0, help="Cap of a recorded pause in s, before scaling.")
    ] = 600.0
    form: Annotated[
        str | None, Option("--format", help=f"Of the trace, default by its look: {', '.join(FORMATS)}.")
    ] = None
    trace_block_size: Annotated[
        int | None, Option(min=1, help="Tokens of a block of the trace, where its format leaves that open.")
    ] = None
    link: Annotated[bool, Option("--link", help="mooncake: put requests that extend each other into one job.")] = False
    pauses: Annotated[str | None, Option(help=f"For pauses that the trace does not know: {PAUSES}.")] = None
    pauses_seed: int = 1


class Remote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a server is driven over HTTP."""

    url: Annotated[str, Option(help="Of a server, for http: http://HOST:PORT.")]
    output: Annotated[
        Output,
        Option(
            help="http: forced (the server loads our logits processor) or ignore-eos (recorded lengths, free tokens)."
        ),
    ] = "forced"
    dialect: Annotated[Dialect, Option(help=f"http: how hints are said: {', '.join(get_args(Dialect))}.")] = (
        "vllm-xargs"
    )
    connections: Annotated[int, Option(min=1, help="http: open at once at most.")] = 1024
    timeout_s: Annotated[float, Option("--timeout", min=0.001, help="http: s without a byte that end an attempt.")] = (
        600.0
    )
    retries: Annotated[int, Option(min=0, help="http: attempts after a first that brought no token.")] = 2
    ramp_s: Annotated[float, Option("--ramp", min=0.0, help="http: s over which the slots open, one by one.")] = 0.0


class HostMemory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tier below the pool, in host memory; of stock vLLM `lru`, written through, and none on a CPU."""

    tokens: Annotated[int, Option("--host-tokens", min=1, help="sim, vllm: engine tokens that host memory holds.")]
    gbps: Annotated[float, Option("--host-gbps", help="sim: GB/s of loads from there.")] = 25.0
    policy: Annotated[str, Option("--host-policy", help=f"sim, vllm: its order of eviction; {STOCK} has lru.")] = (
        "return-index"
    )
    write: Annotated[
        HostWrite,
        Option("--host-write", help=f"sim: copied there as turns end (through), or as it leaves; {STOCK} has through."),
    ] = "evicted"
    token_bytes: Annotated[int, Option("--token-bytes", min=1, help="sim: bytes of K/V a token.")] = 131_072


class RunSetting(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What of a run is said once for all rows, and reaches the engine as it was said. Tokens are engine tokens."""

    engine: Annotated[
        EngineName, Option(help="Where the jobs run: vllm (in process), sim (simulated time), http (a server).")
    ] = "vllm"
    selection: Selection = Selection()
    slots: Annotated[int, Option(min=1, help="Jobs open at once.")] = 8
    arrival: Annotated[str, Option(help=f"How jobs arrive: {', '.join(ARRIVALS)}.")] = "closed"
    time_scale: Annotated[float, Option(min=0.0, help="Factor on recorded pauses.")] = 1.0
    hints: Annotated[bool, Option(help="Send job ids, ends and tools with each request.")] = True
    dtype: Annotated[Dtype, Option(help=f"Of weights and cache: {', '.join(get_args(Dtype))}.")] = "float32"
    max_batched_tokens: Annotated[int, Option(min=1, help="Tokens a step computes at most.")] = 512
    mode: Annotated[Mode, Option(help="Several holes a step (fused) or one (sequential).")] = "fused"
    chunking: Annotated[
        str, Option(help="Prefill tokens beside decodes: adaptive:tpot=50ms, paper, fixed:N or off.")
    ] = "off"
    remote: Remote | None = None
    host_memory: HostMemory | None = None


class Options(RunSetting, frozen=True, kw_only=True):
    """What the user asked for: a run for each policy, admission and seed. None is left to the engine."""

    trace: Annotated[Path, Argument(help="A trace of any format that `agentcache trace` reads.")]
    cache_tokens: Annotated[
        int | None, Option(min=1, help="Size of the KV pool, in engine tokens; a server may know it itself.")
    ] = None
    policies: Annotated[
        str | None,
        Option(
            help=f"Policies, in order, with commas; {STOCK} is stock vLLM without the plug-in. Default {POLICIES}; "
            "of a server, what it says that it runs."
        ),
    ] = None
    admission: Annotated[str, Option(help="Which turns may run at once, with commas; stock vLLM has fcfs alone.")] = (
        STOCK_ADMISSION
    )
    tokens_per_block: Annotated[
        int | None, Option(min=1, help="Engine tokens a block of the trace; default the trace's own.")
    ] = None
    seeds: Annotated[str, Option(help="Seeds of tokens and of the jobs' order, with commas.")] = "1"
    model: Annotated[
        str | None,
        Option(
            help=f"A model folder, or tiny-llama, tiny-qwen3, tiny-moe, demo-llama; default {MODEL}. "
            "Of a server: the name that it serves."
        ),
    ] = None
    block_size: Annotated[
        int | None, Option(min=1, help=f"Engine tokens a cache block; default {BLOCK_SIZE}, or the server's.")
    ] = None
    profile: Annotated[Path | None, Option(help="Cost profile, or h20-like, h200-like; default estimated.")] = None
    vocab_size: Annotated[
        int | None, Option(min=8, help="http: of the model, if its folder is not on this machine.")
    ] = None
    json: Annotated[Path | None, Option("--json", help="Write the result here.")] = None
    html: Annotated[Path | None, Option("--html", help="Write the report here.")] = None


class RunSpec(RunSetting, frozen=True, kw_only=True):
    """One run: one policy, one seed, one fresh engine. What it has of `Options`, it has settled.

    `log`: record the engine's steps. `watch`: look at what is resident. `remote`: of the engine `http` alone,
    whose server may have run before. `oracle`: the policy is told every pause before it happens.
    """

    policy: str
    cache_blocks: int
    block_size: int
    tokens_per_block: int
    admission: str = STOCK_ADMISSION
    seed: int = 1
    trace: str = ""
    profile: str | None = None
    model: str = ""
    vocab_size: int = 0
    max_context_tokens: int = 0
    log: bool = False
    watch: bool = False
    oracle: bool = False

    @property
    def stock(self) -> bool:
        return self.policy == STOCK

    @property
    def tier(self) -> HostMemory | None:
        """The host memory below the pool, if the run has some: of stock vLLM, no CPU engine does."""
        return None if self.stock and self.engine == "vllm" else self.host_memory
