"""A child process with one real engine that does what it is told: a line of JSON in, a line of JSON out.

`{"turn": JOB, "tokens": [...]}` runs a turn to its end and says what was generated; `{"blocks": ID}` says how many
blocks of a context are resident; `{"work": SECONDS}` runs turns of several jobs for so long.
"""

import json
import os
import subprocess
import sys
import time
from types import TracebackType
from typing import Any


class Child:
    """The test's end of the pipe."""

    def __init__(self, **options: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"VLLM_LOGGING_LEVEL": "WARNING"},  # its warnings are heard
        )
        self.said: list[str] = []

    def __enter__(self) -> "Child":
        assert self.ask(hello=True)["ready"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        out, err = self._process.communicate(timeout=240)
        self.said += [*out.splitlines(), *err.splitlines()]

    def tell(self, **order: Any) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self._process.stdout and self._process.stderr
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
            self.said.append(line)
        raise AssertionError(f"the engine has ended: {self._process.stderr.read()[-3000:]}")

    def ask(self, **order: Any) -> dict[str, Any]:
        self.tell(**order)
        return self.hear()


def main() -> None:
    from agentcache.vllm_plugin.launch.cpu_env import prepare

    prepare(threads=1)
    from vllm import EngineArgs, LLMEngine, SamplingParams

    from agentcache.vllm_plugin.lab.look_inside import LookInside
    from agentcache.vllm_plugin.launch.tiny_models import model_dir

    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model_dir("tiny-llama"),
            dtype="float32",
            max_model_len=1024,
            enforce_eager=True,
            max_num_seqs=4,
            block_size=32,
            seed=0,
            max_num_batched_tokens=256,
            num_gpu_blocks_override=80,
            scheduler_cls="agentcache.vllm_plugin.scheduler.AgentCacheScheduler",
            additional_config={"agentcache": json.loads(sys.argv[1])},
        )
    )
    view = LookInside(engine)
    assert view.host
    count = 0

    def turn(job: str, tokens: list[int], tenant: str = "t") -> list[int]:
        nonlocal count
        count += 1
        params = SamplingParams(
            temperature=0.0, max_tokens=4, ignore_eos=True, extra_args={"session_id": job, "this_func_call": "bash"}
        )
        prompt = {"prompt_token_ids": tokens, "cache_salt": tenant}
        engine.add_request(f"{count}", prompt, params)
        out: list[int] = []
        while engine.has_unfinished_requests():
            for output in engine.step():
                out = list(output.outputs[0].token_ids)
        return out

    for line in sys.stdin:
        order = json.loads(line)
        answer: dict[str, Any] = {"ready": True}
        if "turn" in order:
            answer["out"] = turn(order["turn"], order["tokens"], order.get("tenant", "t"))
        if "work" in order:
            until, done, outs = time.monotonic() + order["work"], 0, set()
            while time.monotonic() < until:
                outs.add(tuple(turn(f"worker{done % 3}", [7 + done % 3] * 200)))
                done += 1
            answer |= {"done": done, "distinct": len(outs)}
        if "blocks" in order:
            context = view.host.residency.contexts.get(order["blocks"])
            orders = view.scheduler.link._orders
            answer["blocks"] = len(list(orders._resident(context.chain))) if context else None
        if "leases" in order:
            answer["leases"] = [str(holder) for holder in view.host.residency.policy.holders()]
        if "metrics" in order:
            answer["metrics"] = {"|".join(key): value for key, value in view.host.meter.values.items()}
        view.check()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
