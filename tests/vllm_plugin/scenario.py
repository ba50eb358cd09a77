"""A child process that drives one real engine through a scenario: spec JSON on stdin, outcome JSON on stdout.

One engine a process: an engine does not give back everything it took.
"""

import json
import random
import sys
from collections import Counter
from dataclasses import asdict
from typing import Any

from tests import forked


def run(**spec: Any) -> dict[str, Any]:
    """Run a scenario in a process of its own and return its outcome; fails with the child's own words."""
    found: dict[str, Any] = forked.outcome(__file__, spec=spec, fresh=spec.get("v2", False))
    return found


def prompts(seed: int) -> list[list[list[int]]]:
    """Batches of prompts over five documents that do not all fit: 900 tokens of a document, then a tail."""
    rng = random.Random(seed)
    documents = [[rng.randrange(3, 500) for _ in range(700)] for _ in range(5)]
    batches = []
    for step in range(14):
        chosen = rng.sample(range(5), rng.choice((1, 2, 4)))
        batches.append([documents[i] + [5 + step % 3] * (1 + step % 40) for i in chosen])
    return batches


def sabotage(view: Any) -> None:
    """Make every part fail that an engine can do without, at each call."""
    from agentcache.vllm_plugin import host

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("sabotage")

    host.read_hints = fail  # type: ignore[assignment]
    for name in ("count", "observe", "hear", "evicted"):
        setattr(view.host.meter, name, fail)
    for name in ("expect", "hear", "held"):
        setattr(view.host.receipts, name, fail)
    for name in ("open", "chunk", "scheduled", "finished", "forget"):
        setattr(view.scheduler.pacer, name, fail)


def strip(view: Any, outcome: dict[str, Any]) -> None:
    """From the first jump over resident blocks on, lose what vLLM does not declare of a step; count what is computed.

    A step jumps if it has segments, or (in sequential mode) if a request is beyond what it has been scheduled for.
    """
    from agentcache.vllm_plugin.blocks.holes import SEGMENTS

    schedule, execute = view.scheduler.schedule, view.runner.execute_model
    outcome["computed_stripped"] = 0

    def stripped(*args: Any, **kwargs: Any) -> Any:
        before = {name: request.num_computed_tokens for name, request in view.scheduler.requests.items()}
        output = schedule(*args, **kwargs)
        requests = view.scheduler.requests
        moved = {name: requests[name].num_computed_tokens - before.get(name, 0) for name in output.num_scheduled_tokens}
        jumps = any(
            moved[name] > tokens for name, tokens in output.num_scheduled_tokens.items() if before.get(name, 0) > 0
        )
        if getattr(output, SEGMENTS) or jumps:
            delattr(output, SEGMENTS)
        return output

    def counted(output: Any, *args: Any, **kwargs: Any) -> Any:
        outcome["computed_stripped"] += not hasattr(output, SEGMENTS)
        return execute(output, *args, **kwargs)

    view.scheduler.schedule, view.runner.execute_model = stripped, counted


def count_drafts(view: Any, outcome: dict[str, Any]) -> None:
    """Tokens that were drafted, and those of them that were accepted."""
    from agentcache.vllm_plugin.compat import on_verified

    def verified(drafted: int, accepted: int) -> None:
        outcome["drafted"] += drafted
        outcome["accepted"] += accepted

    on_verified(view.scheduler, verified)


def add(engine: Any, spec: dict[str, Any], number: int, batch: list[list[int]]) -> None:
    """Ask all prompts of a batch."""
    from vllm import SamplingParams

    for row, tokens in enumerate(batch):
        n = spec.get("n", 1)
        extra = {"job_id": f"document {tokens[0]}"} if spec.get("jobs") and number % 3 else None
        params = SamplingParams(
            temperature=float(n > 1), seed=row, max_tokens=8, ignore_eos=True, n=n, extra_args=extra
        )
        urgency = -row if spec.get("priorities") else 0
        engine.add_request(f"{number}-{row}", {"prompt_token_ids": tokens}, params, priority=urgency)


def drive(engine: Any, view: Any, spec: dict[str, Any], outcome: dict[str, Any]) -> None:
    """Run the spec's batches one after the other, each to its end, and note what comes out."""
    from agentcache.policy.admission.names import parse_admission
    from agentcache.residency.admission import WorkingSetAdmission

    rng = random.Random(1)
    batches = spec.get("prompts") or prompts(spec.get("seed", 3))[: spec.get("batches", 14)]
    admissions = spec.get("admissions", [])
    for number, batch in enumerate(batches):
        if admissions:  # one engine tries them all: nothing is open between two batches
            rule = parse_admission(admissions[number % len(admissions)])
            core = view.host.residency
            core.admission = WorkingSetAdmission(rule, core.capacity_blocks, core.contexts, core.survival)
        add(engine, spec, number, batch)
        steps = 0
        core = view.host and view.host.residency
        while engine.has_unfinished_requests() and "refused" not in outcome:
            steps += 1
            if spec.get("abort") and steps == 2 and number % 2:
                engine.abort_request([f"{number}-{rng.randrange(len(batch))}"])
                outcome["aborted"] += 1
            try:
                outputs = engine.step()
            except Exception as error:
                if not spec.get("strip"):
                    raise
                outcome["refused"] = f"{type(error).__name__}: {error}"
                break
            if core and core.admission:
                outcome["held"] += len(core.admission.choice.held)
                core.check()
            for output in outputs:
                if output.finished:
                    texts = [list(choice.token_ids) for choice in output.outputs]
                    outcome["tokens"][output.request_id.split("_")[-1]] = texts
                    outcome["cached"].append(output.num_cached_tokens)
        if admissions:
            counted = {name: count for name, count in asdict(core.admission.counts).items() if name != "held_s"}
            outcome["admission"] = Counter(outcome.get("admission", {})) + Counter(counted)


def main() -> None:
    spec = json.loads(sys.stdin.read())
    from agentcache.vllm_plugin.launch.cpu_env import interpret_triton, prepare

    prepare(threads=1)
    if spec.get("v2"):
        interpret_triton()

    from vllm import EngineArgs, LLMEngine

    from agentcache.vllm_plugin.lab.look_inside import LookInside
    from agentcache.vllm_plugin.launch.tiny_models import model_dir

    published = {}
    if spec.get("kv_events"):
        from vllm.config import KVEventsConfig

        from tests.vllm_plugin.kv_events import Subscriber, events_config

        published = {"kv_events_config": KVEventsConfig(**events_config())}

    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model_dir(spec.get("model", "tiny-llama")),
            dtype="float32",
            max_model_len=1024,
            enforce_eager=True,
            max_num_seqs=8,
            block_size=32,
            seed=0,
            max_num_batched_tokens=spec.get("chunk", 256),
            num_gpu_blocks_override=spec.get("pool", 60),
            disable_log_stats=False,
            **published,
            **spec.get("engine", {}),
        )
    )
    view = LookInside(engine)
    if spec.get("sabotage"):
        sabotage(view)
    subscriber = published and Subscriber(view.scheduler.kv_event_publisher, published["kv_events_config"].endpoint)
    events: list[Any] = []
    view.listen(lambda event, now: events.append(event))
    outcome: dict[str, Any] = {"classes": view.classes(), "tokens": {}, "cached": [], "aborted": 0, "held": 0}
    outcome |= {"drafted": 0, "accepted": 0}
    if spec.get("strip"):
        strip(view, outcome)
    count_drafts(view, outcome)
    drive(engine, view, spec, outcome)
    if "refused" in outcome:
        print(json.dumps(outcome))
        return
    if spec.get("sabotage"):
        outcome["faults"] = dict(view.host.spare.faults)
        view.host.spare.faults.clear()
    view.check()
    if subscriber:
        subscriber.take()
        outcome["kv_events"] = subscriber.compare(view.pool)
    groups = view.runner.kv_cache_config.kv_cache_groups  # the scheduler is told of one layer a group
    outcome["groups"] = [type(group.kv_cache_spec).__name__ for group in groups]
    outcome["events"] = Counter(type(event).__name__ for event in events)
    scheduled = [event for event in events if type(event).__name__ == "TurnScheduled"]
    timed = [event for event in events if type(event).__name__ == "StepTimed"]
    outcome["steps"] = [(e.tokens, e.decodes, e.context_tokens, e.seconds, e.predicted_s) for e in timed]
    outcome["after_hole"] = sum(event.after_hole for event in scheduled)
    outcome["loaded"] = sum(event.loaded for event in scheduled)
    outcome["holes"] = sum(event.holes for event in scheduled)
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
