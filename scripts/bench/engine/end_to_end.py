"""Multi-segment attention end to end: stock vLLM against AgentCache with its own kernels, both in one run.

    python scripts/bench/engine/end_to_end.py --out docs/results/end-to-end.csv

Two parts. `ttft`: a context comes back after some of its blocks were evicted, the same ones in both engines, a front
hole or eight short ones. `replay`: recorded agent jobs with the pool capped, stock vLLM with LRU and FCFS against
`return-index` with working-set admission. Both engines run vLLM's second model runner; ours adds the scheduler, the
runner mixin and the attention backend CUSTOM. Answers are compared in both parts: greedy tokens of the ttft part, and
in the replay, where outputs are forced to the recorded lengths, the token that would have been chosen at each position.

On a GPU the model has Llama-3.1-8B's shapes and random weights. Without one everything is small, the kernels are
interpreted, answers are compared all the same, and every time says "not measured".

Where only vLLM's Python is there (its wheel unpacked without the compiled modules), `--python-only` gives both sides
torch's own operations and eager mode, and the stock side Triton attention; the column `build` says so. No other vLLM
may be installed there:

    pip download --no-deps vllm==0.32.0
    unzip -q vllm-0.32.0-*.whl -x '*.so' -d python-only
    PYTHONPATH=python-only python scripts/bench/engine/end_to_end.py --python-only
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from agentcache.errors import EngineError
from agentcache.files import write_csv
from agentcache.vllm_plugin.launch.cpu_env import CPU_ENV, interpret_triton, prepare
from agentcache_workloads.replay.accounts.provenance import commit, describe_host

SIDES = ("stock", "agentcache")
ROOT = Path(__file__).resolve().parents[3]
TRACE = ROOT / "workloads/data/cc_weka.cut.jsonl.zst"
SHARES, SHORT_HOLES, RATIOS = (0.25, 0.5, 0.75), 8, (2, 4)
NEW, ANSWER = 64, 8
NOT_MEASURED = "not measured"
GARBAGE = 1e4  # what evicted blocks hold: an engine that reads one answers something else
RANDOM_WEIGHTS = "random"
QUIET = ("VLLM_ENABLE_V1_MULTIPROCESSING", "HF_HUB_OFFLINE", "VLLM_LOGGING_LEVEL", "VLLM_NO_USAGE_STATS")
"""Of the CPU's environment, what a GPU engine takes too: in this process, offline, quiet. It compiles as ever."""
PROBES = (
    "cutlass_scaled_mm_supports_fp8",
    "cutlass_scaled_mm_supports_block_fp8",
    "cutlass_scaled_mm_supports_fp4",
    "cutlass_group_gemm_supported",
)
POLICY, ADMISSION = "return-index", "working-set"

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is; tokens, unless it says otherwise. `short` is the length of a short hole.

    From `jobs` on it is the replay: calls of a job, its longest context, and its pauses, capped and scaled.
    """

    model: str
    dtype: str
    block: int
    budget: int
    contexts: tuple[int, ...]
    short: int
    jobs: int
    calls: int
    max_ctx: int
    tokens_per_block: int
    max_pause_s: float
    time_scale: float
    spread: float


FULL = Scale("llama-3.1-8b", "bfloat16", 16, 8192, (8192, 32768, 98304), 64, 20, 20, 98304, 64, 600.0, 0.05, 0.02)
SMOKE = Scale("tiny-llama", "float32", 32, 512, (512, 1024, 1536), 32, 12, 3, 40000, 1, 2.0, 0.0, 0.08)
"""The same runs in the small: a block of the trace is one token, pauses are none."""


def front(blocks: int, share: float) -> list[int]:
    return list(range(int(blocks * share)))


def short_holes(blocks: int, each: int) -> list[int]:
    """Block indices of eight holes at equal distances, the last one apart from the end."""
    period = blocks // SHORT_HOLES
    return [hole * period + index for hole in range(SHORT_HOLES) for index in range(min(each, max(1, period - 1)))]


# A child: one engine, which answers one question a line


def stub_compiled_modules() -> None:
    """Let vLLM's Python be imported for CUDA without its compiled modules; what it looks up at start-up is named."""
    import types

    for name in ("vllm._C", "vllm._C_stable_libtorch"):
        sys.modules.setdefault(name, types.ModuleType(name))
    flash = ("compile_flash_attn_varlen_func_from_specs", "flash_attn_varlen_func", "get_scheduler_metadata")
    for name in ("vllm.vllm_flash_attn", "vllm.vllm_flash_attn.flash_attn_interface"):
        module = sys.modules.setdefault(name, types.ModuleType(name))
        vars(module).update({**dict.fromkeys(flash), "__path__": []})
        vars(module)["is_fa_version_supported"] = lambda version, device=None: False
        vars(module)["fa_version_unsupported_reason"] = lambda version, device=None: "its module is not here"
    library = torch.library.Library("_C", "FRAGMENT")
    library.define("silu_and_mul(Tensor! out, Tensor input) -> ()")  # looked up by a layer that then does not call it
    for name in PROBES:  # asked on import: nothing of it is there
        library.define(f"{name}(int capability) -> bool")
        library.impl(name, lambda capability: False, "CompositeExplicitAutograd")
    stub_compiled_modules.library = library  # type: ignore[attr-defined]  # ends with its last reference


def start(setup: dict[str, Any], scale: Scale) -> Any:
    """The engine of one side. Only AgentCache's own flags differ; `python_only` changes both sides alike."""
    from vllm import EngineArgs, LLMEngine

    from agentcache.vllm_plugin.launch.command_line import plugin_args
    from agentcache.vllm_plugin.launch.tiny_models import model_dir

    gpu, ours = torch.cuda.is_available(), setup["side"] != "stock"
    args: dict[str, Any] = {}
    if setup["python_only"] or not gpu or setup["eager"]:
        args["enforce_eager"] = True
    if setup["python_only"]:
        args["compilation_config"] = {"custom_ops": ["none"]}
        args["attention_backend"] = "TRITON_ATTN"
    if ours:
        args |= plugin_args({"policy": setup["policy"], "admission": setup["admission"]})
        args["attention_backend"] = "CUSTOM"
    if scale.model == FULL.model:
        folder = str(setup["folder"])
        (Path(folder) / "config.json").write_text(json.dumps(LLAMA_8B), encoding="utf-8")
    else:
        folder = model_dir(scale.model)
    return LLMEngine.from_engine_args(
        EngineArgs(
            folder,
            load_format=RANDOM_WEIGHTS,
            dtype=scale.dtype,
            seed=setup["seed"],
            max_model_len=setup["max_len"],
            block_size=scale.block,
            num_gpu_blocks_override=setup["blocks"] + 1,  # one is vLLM's null block
            max_num_batched_tokens=scale.budget,
            max_num_seqs=64,
            gpu_memory_utilization=0.45,  # both sides are up at once
            skip_tokenizer_init=True,
            use_tqdm_on_load=False,
            disable_log_stats=False,  # queueing times come from there
            enable_trace_replay=True,
            enable_prefix_caching=True,
            **args,
        )
    )


def register_random_weights(spread: float, seed: int) -> None:
    """A model loader that draws weights alike on both sides: at vLLM's own dummy ones, near zero, all tokens tie."""
    from vllm.model_executor.model_loader import register_model_loader
    from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader

    @register_model_loader(RANDOM_WEIGHTS)
    class RandomLoader(DummyModelLoader):
        def load_weights(self, model: torch.nn.Module, model_config: Any) -> None:
            for number, (_, weight) in enumerate(sorted(model.named_parameters())):
                if weight.dim() > 1:
                    draw = torch.Generator(weight.device).manual_seed(seed * 10_000 + number)
                    weight.data.normal_(0.0, spread, generator=draw)
                else:
                    weight.data.fill_(1.0)


def serve(setup: dict[str, Any]) -> None:
    """Start one engine, then answer each line of stdin by one line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    if torch.cuda.is_available():
        for name in QUIET:
            os.environ.setdefault(name, CPU_ENV[name])
    else:
        prepare(threads=1)
        interpret_triton()
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"
    if setup["side"] == "stock":
        os.environ["VLLM_PLUGINS"] = ""
    if setup["python_only"]:
        stub_compiled_modules()
    from agentcache.vllm_plugin.lab.look_inside import LookInside

    scale = Scale(**{**setup["scale"], "contexts": tuple(setup["scale"]["contexts"])})
    register_random_weights(scale.spread, setup["seed"])
    engine = start(setup, scale)
    view = LookInside(engine)
    assert view.active is (setup["side"] != "stock"), view.classes()
    print(json.dumps({"classes": view.classes(), "vllm": _version("vllm")}), file=answers, flush=True)
    returning = Returning(engine, view, scale, setup["vocab_size"])
    for line in sys.stdin:
        question = json.loads(line)
        answer = returning.ask(**question) if "evicted" in question else replay(engine, view, scale, setup, **question)
        print(json.dumps(answer), file=answers, flush=True)


def _version(package: str) -> str:
    from importlib import import_module

    return str(import_module(package).__version__)


class Returning:
    """Asks a long context, evicts some of its blocks, and asks again with a little more behind it."""

    def __init__(self, engine: Any, view: Any, scale: Scale, vocab_size: int) -> None:
        self.engine, self.view, self.scale, self.vocab_size = engine, view, scale, vocab_size
        self.asked = 0
        self.resident: tuple[int, int] | None = None

    def ask(self, context: int, evicted: Sequence[int], seed: int) -> dict[str, Any]:
        rng = random.Random(f"{seed}/{context}")
        prompt = [rng.randrange(3, self.vocab_size) for _ in range(context + NEW)]
        block = self.scale.block
        if self.resident != (seed, context):
            self.engine.reset_prefix_cache()
            self._run(prompt[: context + 1])  # the last block of a prompt is only known with a token behind it
            self.resident = seed, context
        gone = {*evicted, *range(context // block, len(self.view.pool.blocks))}
        doomed = [
            entry.block_id
            for entry in self.view.pool.blocks
            if entry.block_hash is not None and entry.block_hash_num_tokens // block - 1 in gone
        ]
        self.view.evict(doomed)
        self.view.poison(doomed, GARBAGE)
        return self._run(prompt)

    def _run(self, tokens: list[int]) -> dict[str, Any]:
        from vllm import SamplingParams

        from agentcache.vllm_plugin.lab.verify.compare import GivenAnswer

        params = SamplingParams(temperature=0.0, max_tokens=ANSWER, ignore_eos=True, detokenize=False, logprobs=2)
        self.asked += 1
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        begun, first, steps, last = time.perf_counter(), None, 0, None
        self.engine.add_request(str(self.asked), {"prompt_token_ids": tokens}, params)
        while self.engine.has_unfinished_requests():
            steps += first is None
            for output in self.engine.step():
                first, last = first or time.perf_counter() - begun, output
        assert first is not None and last is not None
        answer = asdict(GivenAnswer.of(last.outputs[0]))
        return {"ttft_s": first, "steps": steps, "cached": last.num_cached_tokens, "answers": {"": answer}}


def selection(scale: Scale) -> Any:
    from agentcache_workloads.replay.spec import Selection

    return Selection(scale.jobs, scale.calls, scale.max_ctx, scale.max_pause_s)


def run_spec(setup: dict[str, Any], scale: Scale, vocab_size: int, max_len: int) -> Any:
    from agentcache_workloads.replay.spec import STOCK, RunSpec

    return RunSpec(
        trace=str(TRACE),
        selection=selection(scale),
        policy=STOCK if setup["side"] == "stock" else POLICY,
        admission="fcfs" if setup["side"] == "stock" else ADMISSION,
        seed=setup["seed"],
        slots=scale.jobs,
        time_scale=scale.time_scale,
        tokens_per_block=scale.tokens_per_block,
        model=scale.model,
        vocab_size=vocab_size,
        dtype=scale.dtype,
        block_size=scale.block,
        cache_blocks=setup["blocks"],
        max_batched_tokens=scale.budget,
        max_context_tokens=max_len - 1,
    )


def replay(engine: Any, view: Any, scale: Scale, setup: dict[str, Any], live_pool: float) -> dict[str, Any]:
    """All jobs in a closed loop; the greedy token of each position beside the forced one."""
    from agentcache.vllm_plugin.lab.verify.compare import GivenAnswer
    from agentcache_workloads.replay.accounts.metrics import run_object
    from agentcache_workloads.replay.engines.vllm.worker import Run
    from agentcache_workloads.replay.hints import hints_of
    from agentcache_workloads.replay.jobs.plan import load_plan
    from agentcache_workloads.replay.result import CallRecord

    chosen: dict[str, dict[str, Any]] = {}

    class Greedy(Run):
        """Forces outputs by vLLM's own trace replay, since the second runner has its own logits processors."""

        def send(self, due_s: float, number: int, turn: Any, last: bool) -> None:
            from vllm import SamplingParams

            job = self.jobs[number]
            prompt, output = self.renderer.render(job, turn)
            hints = hints_of(job, turn, last)
            params = SamplingParams(
                temperature=0.0,
                max_tokens=len(output),
                ignore_eos=True,
                detokenize=False,
                logprobs=2,
                trace_decode_token_ids=output,
                extra_args=dict(hints),
            )
            self.calls[turn.id] = CallRecord(turn.id, turn.kind, due_s, len(prompt), len(output))
            self.running[turn.id] = (number, turn, output)
            self.engine.add_request(turn.id, {"prompt_token_ids": prompt}, params)

        def take(self, output: Any, now: float) -> Any:
            if output.finished and output.request_id in self.running:
                best = [
                    sorted(((entry.logprob, token) for token, entry in position.items()), reverse=True)
                    for position in output.outputs[0].logprobs
                ]
                chosen[output.request_id] = asdict(
                    GivenAnswer(
                        tuple(ranked[0][1] for ranked in best),
                        tuple(ranked[0][0] for ranked in best),
                        tuple(ranked[0][0] - ranked[1][0] for ranked in best),
                    )
                )
            return super().take(output, now)

    spec = run_spec(setup, scale, setup["vocab_size"], setup["max_len"])
    run = Greedy(spec, load_plan(spec.trace, spec.selection), engine, lambda message: None)
    view.listen(run.observe)
    run.drive()
    run.loop.check()
    view.check()
    found = run_object(spec, run.result(view.classes(), view.active), live_pool)
    return {"found": found, "answers": chosen}


# The parent


class Engines:
    """Both sides, each in a process of its own; asked in turn."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._children: dict[str, subprocess.Popen[str]] = {}
        self.hello: dict[str, dict[str, Any]] = {}
        for side in SIDES:
            own = setup | {"side": side, "folder": self._folder.name}
            self._children[side] = subprocess.Popen(
                [sys.executable, __file__, "--serve", json.dumps(own)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self.hello[side] = self._listen(side)  # one after the other: each looks how much memory is free

    def ask(self, side: str, **question: Any) -> dict[str, Any]:
        print(json.dumps(question), file=self._children[side].stdin, flush=True)
        return self._listen(side)

    def _listen(self, side: str) -> dict[str, Any]:
        pipe = self._children[side].stdout
        assert pipe
        if line := pipe.readline():
            answer: dict[str, Any] = json.loads(line)
            return answer
        self.close()
        raise EngineError(f"the engine process of {side} ended without an answer; its words stand above")

    def close(self) -> None:
        for child in self._children.values():
            child.communicate()
        self._folder.cleanup()


def compare(stock: dict[str, Any], ours: dict[str, Any], dtype: str, forced: bool) -> dict[str, Any]:
    """How many greedy tokens agree, as `agentcache verify` counts; `forced`: positions do not depend on each other."""
    from agentcache.vllm_plugin.lab.verify.compare import MARGINS, AnswerTally, GivenAnswer

    tally = AnswerTally(MARGINS[dtype])
    assert stock.keys() == ours.keys(), "the sides did not answer the same turns"
    for name in stock:
        columns = ("tokens", "logprobs", "margins")
        cold, warm = (GivenAnswer(*(tuple(side[name][column]) for column in columns)) for side in (stock, ours))
        if forced:
            for i in range(len(cold.tokens)):
                tally.compare(*(GivenAnswer((a.tokens[i],), (a.logprobs[i],), (a.margins[i],)) for a in (cold, warm)))
        else:
            tally.compare(cold, warm)
    return {
        "tokens_compared": tally.tokens,
        "mismatches": tally.mismatches,
        "near_ties": tally.near_ties,
        "max_logprob_diff": float(f"{tally.max_logprob_diff:.2g}"),
    }


def measured(seconds: float | None, digits: int = 4) -> object:
    """A time, where times mean anything."""
    return NOT_MEASURED if seconds is None or not torch.cuda.is_available() else round(seconds, digits)


def ratio(ours: float | None, stock: float | None) -> object:
    return measured(ours / stock) if ours and stock else NOT_MEASURED


def ttft_rows(scale: Scale, common: dict[str, Any], contexts: Sequence[int], repeats: int) -> Iterator[dict[str, Any]]:
    longest = max(contexts)
    blocks = longest // scale.block + 2 * (NEW + ANSWER) // scale.block + 16
    setup = common | {"blocks": blocks, "max_len": longest + NEW + ANSWER + scale.block}
    engines = Engines(setup | {"policy": "lru-holes", "admission": "fcfs"})
    try:
        for context in contexts:
            count = context // scale.block
            cells = [("front", share, 1, front(count, share)) for share in SHARES]
            scattered = short_holes(count, scale.short // scale.block)
            cells.append(("short", len(scattered) / count, SHORT_HOLES, scattered))
            for repeat in range(-1 if torch.cuda.is_available() else 0, repeats):  # the first round compiles
                for what, share, holes, evicted in cells:
                    order = SIDES if repeat % 2 else SIDES[::-1]
                    got = {
                        side: engines.ask(side, context=context, evicted=evicted, seed=common["seed"]) for side in order
                    }
                    if repeat < 0:
                        continue
                    agree = compare(got["stock"]["answers"], got["agentcache"]["answers"], scale.dtype, forced=False)
                    for side in SIDES:
                        cell = {"part": "ttft", "context": context, "what": what, "missing": round(share, 3)}
                        found = {"cached_tokens": got[side]["cached"], "steps": got[side]["steps"]}
                        times = {
                            "ttft_mean_s": measured(got[side]["ttft_s"]),
                            "to_stock": ratio(got[side]["ttft_s"], got["stock"]["ttft_s"]),
                        }
                        yield cell | {"holes": holes, "repeat": repeat} | _side(engines, side) | found | times | agree
    finally:
        engines.close()


def replay_rows(scale: Scale, common: dict[str, Any], ratios: Sequence[int]) -> Iterator[dict[str, Any]]:
    from agentcache_workloads.replay.engines.recorded_times import mean_live_tokens
    from agentcache_workloads.replay.jobs.plan import load_plan
    from agentcache_workloads.replay.jobs.render import Renderer

    plan = load_plan(TRACE, selection(scale))
    renderer = Renderer(plan.meta, scale.tokens_per_block, common["vocab_size"], common["seed"])
    longest = max(renderer.sizes(turn).total for job in plan.jobs for turn in job.turns)
    live = mean_live_tokens(plan.jobs, scale.jobs, renderer, scale.tokens_per_block)
    for wanted in ratios:
        blocks = max(int(live / wanted) // scale.block, -(-longest // scale.block) + 1)
        live_pool = live / (blocks * scale.block)  # less than wanted, where the longest turn would not fit
        setup = common | {"blocks": blocks, "max_len": longest + 1}
        engines = Engines(setup | {"policy": POLICY, "admission": ADMISSION})
        try:
            got = {side: engines.ask(side, live_pool=live_pool) for side in SIDES}
        finally:
            engines.close()
        agree = compare(got["stock"]["answers"], got["agentcache"]["answers"], scale.dtype, forced=True)
        stock = got["stock"]["found"]
        for side in SIDES:
            found = got[side]["found"]
            yield {
                "part": "replay",
                "live_pool": round(live_pool, 2),
                "jobs": found["jobs"],
                "calls": found["calls"],
                "errors": found["errors"],
                **_side(engines, side),
                "prompt_tokens": found["prompt_tokens"],
                "cached_tokens": found["cached_tokens"],
                "cached_after_hole": found["cached_tokens_after_hole"],
                "ttft_mean_s": measured(found["ttft_s"]["all"]["mean"]),
                "job_mean_s": measured(found["job_latency_s"]["mean"]),
                "job_p90_s": measured(found["job_latency_s"]["p90"]),
                "to_stock": ratio(found["job_latency_s"]["mean"], stock["job_latency_s"]["mean"]),
                **agree,
            }


def _side(engines: Engines, side: str) -> dict[str, Any]:
    backend = engines.hello[side]["classes"]["backend"].rpartition(".")[2]
    return {"engine": side, "backend": backend, "vllm": engines.hello[side]["vllm"]}


COLUMNS = [
    *("part", "context", "what", "missing", "holes", "live_pool", "jobs", "calls", "errors", "engine", "repeat"),
    *("prompt_tokens", "cached_tokens", "cached_after_hole", "steps", "ttft_mean_s", "job_mean_s", "job_p90_s"),
    *("to_stock", "tokens_compared", "mismatches", "near_ties", "max_logprob_diff", "model", "backend", "build"),
    *("times", "gpu", "vllm", "torch", "commit", "cpu_model", "cores", "seed"),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV to write; it is replaced")
    parser.add_argument("--only", choices=("ttft", "replay"), help="one of the two parts")
    parser.add_argument("--smoke", action="store_true", help="small; the default without a GPU")
    parser.add_argument("--contexts", help="tokens, with commas; default by scale")
    parser.add_argument("--live-pool", default=",".join(map(str, RATIOS)), help="live tokens by the replay's pool")
    parser.add_argument("--jobs", type=int, help="of the replay; default by scale")
    parser.add_argument("--repeats", type=int, help="of the ttft part; default 5, without a GPU 1")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs on either side")
    parser.add_argument("--python-only", action="store_true", help="vLLM without its compiled modules, on both sides")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(json.loads(given.serve))
        return 0
    gpu = torch.cuda.is_available()
    if given.python_only and not gpu:
        parser.error("--python-only replaces compiled CUDA modules, and there is no GPU here")
    scale = SMOKE if given.smoke or not gpu else FULL
    scale = replace(scale, jobs=given.jobs or scale.jobs)
    contexts = tuple(map(int, given.contexts.split(","))) if given.contexts else scale.contexts
    common = {
        "scale": asdict(scale),
        "seed": given.seed,
        "eager": given.eager,
        "python_only": given.python_only,
        "vocab_size": 512 if scale.model == SMOKE.model else LLAMA_8B["vocab_size"],
    }
    where = origin(given, scale, gpu)
    rows: list[dict[str, Any]] = []
    parts = {
        "ttft": lambda: ttft_rows(scale, common, contexts, given.repeats or (5 if gpu else 1)),
        "replay": lambda: replay_rows(scale, common, [int(ratio) for ratio in given.live_pool.split(",")]),
    }
    for name, part in parts.items():
        if given.only in (None, name):
            for row in part():
                rows.append(row | where)
                print({key: value for key, value in row.items() if key not in ("vllm", "repeat")}, flush=True)
                if given.out:
                    write(given.out, rows)
    show(rows)
    return 1 if any(row["mismatches"] or row.get("errors") for row in rows) else 0


def origin(given: argparse.Namespace, scale: Scale, gpu: bool) -> dict[str, Any]:
    """What all rows of a run share."""
    machine = describe_host()
    return {
        "model": scale.model,
        "build": "Python only, native operations" if given.python_only else "as installed" + ", eager" * given.eager,
        "gpu": torch.cuda.get_device_name() if gpu else "none",
        "times": "measured" if gpu else NOT_MEASURED,
        "torch": torch.__version__,
        "commit": commit(),
        "cpu_model": machine["cpu"],
        "cores": machine["cores"],
        "seed": given.seed,
    }


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_csv(path, rows, COLUMNS)


def show(rows: Sequence[dict[str, Any]]) -> None:
    """The ratio to stock of each cell, and what was compared."""
    ours = [row for row in rows if row["engine"] == "agentcache"]
    for key in dict.fromkeys((row["part"], row.get("context"), row.get("what"), row.get("missing")) for row in ours):
        found = [row["to_stock"] for row in ours if (row["part"], *map(row.get, ("context", "what", "missing"))) == key]
        known = [value for value in found if value != NOT_MEASURED]
        print(*(part for part in key if part is not None), f"{median(known):.3f} of stock" if known else NOT_MEASURED)
    compared, wrong, ties = (sum(row[name] for row in ours) for name in ("tokens_compared", "mismatches", "near_ties"))
    print(f"{compared} greedy tokens compared with stock vLLM: {wrong} mismatches, {ties} near-ties")


if __name__ == "__main__":
    sys.exit(main())
