"""One run in one process: a fresh vLLM engine, driven by the closed loop.

Started as `python -m` this module. A `RunSpec` comes in on stdin; messages go out on stdout, one JSON line each.
Everything else that prints goes to stderr. The environment is the caller's business (`engine.environment`).
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from agentcache.cost.prior import ModelShape
from agentcache.errors import AgentCacheError, CheckFailed
from agentcache.model import BlocksEvicted, BlocksStored, Event, Key, TurnScheduled
from agentcache.residency import Residency
from agentcache_workloads.replay.accounts.idle import IdleMeter
from agentcache_workloads.replay.accounts.watch import Watcher
from agentcache_workloads.replay.engines.base import model_config
from agentcache_workloads.replay.hints import hints_of
from agentcache_workloads.replay.jobs.arrivals import arrival_times
from agentcache_workloads.replay.jobs.closed_loop import ClosedLoop, TurnEnd, drive
from agentcache_workloads.replay.jobs.jobs import PlannedTurn, shuffled
from agentcache_workloads.replay.jobs.plan import ReplayPlan, load_plan
from agentcache_workloads.replay.jobs.render import FIRST_TOKEN, Renderer
from agentcache_workloads.replay.result import CallRecord, Ended, EngineStep, Failed, Message, Progressed, RunResult
from agentcache_workloads.replay.spec import KEY, RunSpec

MAX_SEQS = 64  # turns that vLLM runs at once


class Run:
    """The state of one run: the loop, the engine, and what has been seen of each call. Times are since its start."""

    def __init__(self, spec: RunSpec, plan: ReplayPlan, engine: Any, tell: Callable[[Message], None]) -> None:
        self.spec = spec
        self.engine = engine
        self.tell = tell
        self.renderer = Renderer(plan.meta, spec.tokens_per_block, spec.vocab_size, spec.seed)
        self.jobs = jobs = shuffled(plan.jobs, spec.seed)
        self.calls: dict[str, CallRecord] = {}
        self.running: dict[str, tuple[int, PlannedTurn, list[int]]] = {}
        self.ended = 0
        self.evictions = 0
        self.resident: Counter[Key] = Counter()
        self.idle = IdleMeter(spec.block_size, trace_id)
        self.residency: Residency | None = None  # of a stock engine nobody knows
        self.watcher = Watcher() if spec.watch else None
        self.steps: list[EngineStep] = []
        self.sent: list[str] = []  # since the last step
        self.start = time.perf_counter()
        arrivals = arrival_times(spec.arrival, jobs, spec.seed, spec.time_scale)
        self.loop = ClosedLoop(jobs, spec.slots, spec.time_scale, 0.0, arrivals)

    @property
    def now(self) -> float:
        return time.perf_counter() - self.start

    def drive(self) -> None:
        """Run all jobs to their end."""
        drive(self.loop, self)

    def run(self, until_s: float | None) -> Iterator[TurnEnd]:
        """One step; without anything to run, sleep."""
        if self.running:
            start_s, outputs, end_s = self.now, self.engine.step(), self.now
            if self.watcher and self.residency:
                self.watcher.look(end_s, self.residency, lambda keys: (self.resident[key] > 0 for key in keys))
            if self.spec.log:
                self.steps.append(EngineStep(self.sent, start_s, end_s))
            self.sent = []
            for output in outputs:
                if end := self.take(output, end_s):
                    yield end
        elif until_s is not None:
            time.sleep(max(until_s - self.now, 0.0))

    def leave(self, number: int) -> None:
        self.renderer.forget(self.jobs[number])

    def send(self, due_s: float, number: int, turn: PlannedTurn, last: bool) -> None:
        from vllm import SamplingParams

        job = self.jobs[number]
        prompt, output = self.renderer.render(job, turn)
        hints = hints_of(job, turn, last) if self.spec.hints else {}
        # An answer to the user ends by a stop token, so that the engine sees the recorded reason without any hint;
        # where the token occurs earlier too, it would end too early.
        stops = turn.call.stop == "end_turn" and output[-1] not in output[:-1]
        params = SamplingParams(
            temperature=0.0,
            max_tokens=len(output),
            ignore_eos=True,
            detokenize=False,
            stop_token_ids=output[-1:] if stops else None,
            extra_args={**hints, KEY: output},
        )
        self.calls[turn.id] = CallRecord(turn.id, turn.kind, due_s, len(prompt), len(output))
        self.running[turn.id] = (number, turn, output)
        self.sent.append(turn.id)
        self.idle.expect(turn.id, f"{job.id}/{turn.context}", turn.followed_by is not None)
        self.engine.add_request(turn.id, {"prompt_token_ids": prompt}, params)

    def take(self, output: Any, now: float) -> TurnEnd | None:
        """Note what a step brought for one request; returns its end, if it ended."""
        if output.request_id not in self.running:
            return None  # of a job that was given up
        record = self.calls[output.request_id]
        said = list(output.outputs[0].token_ids)
        if said and record.first_token_s is None:
            record.first_token_s = now
        if not output.finished:
            return None
        number, turn, forced = self.running[output.request_id]
        record.finished_s = now
        record.cached_tokens = output.num_cached_tokens or 0
        if stats := output.metrics:
            record.queue_s = stats.scheduled_ts - stats.queued_ts
            record.preemptions = stats.num_preemptions
        if said != forced:
            self.fail(turn.id, f"ended ({output.outputs[0].finish_reason}) with other tokens than the forced ones")
            return TurnEnd(number, turn, self.now, failed=True)
        del self.running[turn.id]
        self.count()
        return TurnEnd(number, turn, now)

    def fail(self, turn_id: str, reason: str) -> None:
        """Give up the turn's job: what would follow cannot be what was recorded."""
        number = self.running[turn_id][0]
        self.calls[turn_id].error = reason
        others = [name for name, (owner, _, _) in self.running.items() if owner == number]
        for name in others:
            del self.running[name]
        self.engine.abort_request([name for name in others if name != turn_id])
        self.idle.give_up({f"{self.jobs[number].id}/{turn.context}" for turn in self.jobs[number].turns})
        self.count()

    def count(self) -> None:
        self.ended += 1
        self.tell(Progressed(self.ended))

    def observe(self, event: Event, now: float) -> None:
        """Hear what AgentCache's core hears."""
        self.idle.hear(event, now)
        if isinstance(event, BlocksEvicted):
            self.evictions += len(event.keys)
            self.resident.subtract(event.keys)
        elif isinstance(event, BlocksStored):
            self.resident.update(event.keys)
        elif isinstance(event, TurnScheduled):
            record = self.calls.get(trace_id(event.turn))
            if record and record.holes is None:  # a resumed turn is scheduled again
                record.holes, record.cached_after_hole = event.holes, event.after_hole
                record.loaded_tokens = event.loaded

    def result(self, classes: dict[str, str], active: bool) -> RunResult:
        return RunResult(
            calls=list(self.calls.values()),
            jobs=self.loop.records(),
            evictions=self.evictions if active else None,
            makespan_s=max((p.ended_s for p in self.loop.ended.values()), default=0.0),
            classes=classes,
            steps=self.steps,
            idle_token_s=self.idle.token_s if active else None,
            residency=self.watcher.result() if self.watcher and self.residency else None,
        )


def trace_id(request_id: str) -> str:
    """The id of a turn: vLLM appends a random suffix to it."""
    return request_id.rpartition("-")[0]


def start_engine(spec: RunSpec) -> Any:
    """Build the engine; the only difference between rows is AgentCache's own flags."""
    from vllm import EngineArgs, LLMEngine

    ours: dict[str, Any] = {}
    if not spec.stock:
        options: dict[str, Any] = {
            "policy": spec.policy,
            "admission": spec.admission,
            "profile": spec.profile,
            "mode": spec.mode,
            "chunking": spec.chunking,
            **_host_memory(spec),
        }
        ours["additional_config"] = {"agentcache": options}
        ours["scheduler_cls"] = "agentcache.vllm_plugin.scheduler.AgentCacheScheduler"
        if spec.mode == "fused" or spec.host_memory:
            ours["worker_cls"] = "agentcache.vllm_plugin.cpu_worker.AgentCacheCPUWorker"
    args = EngineArgs(
        model=spec.model,
        dtype=spec.dtype,
        seed=spec.seed,
        block_size=spec.block_size,
        num_gpu_blocks_override=spec.cache_blocks + 1,  # one is vLLM's null block
        max_model_len=spec.max_context_tokens + 1,
        max_num_batched_tokens=spec.max_batched_tokens,
        max_num_seqs=min(MAX_SEQS, spec.max_batched_tokens),
        enable_prefix_caching=True,
        enforce_eager=True,
        skip_tokenizer_init=True,
        disable_log_stats=False,  # queueing times come from there
        logits_processors=["agentcache_workloads.replay.engines.vllm.forced:ForcedOutput"],
        **ours,
    )
    engine = LLMEngine.from_engine_args(args)
    _warm_up(engine, spec)
    return engine


def _host_memory(spec: RunSpec) -> dict[str, Any]:
    """The options for so many tokens, of a model whose layers have full attention."""
    if (host := spec.host_memory) is None:
        return {}
    shape = ModelShape.from_hf_config(model_config(spec.model))
    token_bytes = shape.kv_values * (4 if spec.dtype == "float32" else 2)
    tokens = (host.tokens // spec.block_size + 0.5) * spec.block_size
    return {"host_policy": host.policy, "host_memory": tokens * token_bytes / 2**30}


def _warm_up(engine: Any, spec: RunSpec) -> None:
    """One full chunk and a decode, forgotten again: the first call of a process is slower than all others."""
    from vllm import SamplingParams

    tokens = [FIRST_TOKEN] * min(spec.max_batched_tokens, spec.max_context_tokens - 2)
    params = SamplingParams(temperature=0.0, max_tokens=2, ignore_eos=True, detokenize=False)
    engine.add_request("warm-up", {"prompt_token_ids": tokens}, params)
    while engine.has_unfinished_requests():
        engine.step()
    engine.reset_prefix_cache()


def run(spec: RunSpec, send: Callable[[Message], None]) -> RunResult:
    """Make one run. Raises `CheckFailed` when blocks are left in use, or when a row is not what it says it is."""
    from agentcache.vllm_plugin.lab.look_inside import LookInside

    plan = load_plan(spec.trace, spec.selection)
    engine = start_engine(spec)
    view = LookInside(engine)
    classes = view.classes()
    ours = {name: cls for name, cls in classes.items() if cls.startswith("agentcache")}
    if view.active is spec.stock or (spec.stock and ours):
        raise CheckFailed(f"policy {spec.policy}: AgentCache's classes in the engine are {ours or 'none'}")
    if view.usable_blocks != spec.cache_blocks:
        raise CheckFailed(f"the pool has {view.usable_blocks} usable blocks, {spec.cache_blocks} were asked for")
    this = Run(spec, plan, engine, send)
    view.listen(this.observe)
    this.residency = view.host.residency if view.host else None
    this.drive()
    while engine.has_unfinished_requests():  # of jobs that were given up
        engine.step()
    this.loop.check()
    this.idle.check()
    view.check()
    return this.result(classes, view.active)


def main() -> None:
    """Serve one run over the pipes."""
    pipe = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever the engine prints must not mix with the messages
    encode = msgspec.json.Encoder().encode

    def send(message: Message) -> None:
        pipe.write(encode(message) + b"\n")

    try:
        send(Ended(run(msgspec.json.decode(sys.stdin.buffer.read(), type=RunSpec), send)))
    except AgentCacheError as error:
        send(Failed(type(error).__name__, error.message, error.hint))


if __name__ == "__main__":
    main()
