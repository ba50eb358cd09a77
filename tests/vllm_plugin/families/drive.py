"""A child process that plays one programme of agents' jobs on engines of one family: spec on stdin, outcomes on stdout.

The jobs are played one request at a time first, in an engine that remembers nothing: these answers are what is
compared with, and what later turns go on from. Then stock vLLM plays the programme, then AgentCache at each level.
"""

import gc
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from agentcache.vllm_plugin.lab.verify.compare import AnswerTally, GivenAnswer
from agentcache.vllm_plugin.launch.cpu_env import prepare
from tests import forked
from tests.vllm_plugin.families.drafters import speculative_config
from tests.vllm_plugin.families.lifted import LIFTED
from tests.vllm_plugin.families.table import FAMILIES, Family

JOBS, TURNS = 6, 4
ABORT, PREEMPT, RESET = (9, 31), (14, 23, 44), 26  # in which steps; the reset in the first then in which somebody runs


@dataclass(frozen=True)
class Turn:
    """A turn of a job; `pause`: the steps for which its tool runs before it comes."""

    job: int
    number: int
    prompt: list[int]
    cold: GivenAnswer
    pause: int


def run(family: str, levels: list[str]) -> dict[str, Any]:
    """The outcomes of stock vLLM and of these levels; fails with the child's own words."""
    child = forked.run("-m", "tests.vllm_plugin.families.drive", said=json.dumps([family, levels]))
    assert child.returncode == 0, child.stderr[-3000:]
    outcomes: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return outcomes


def connector(way: str) -> Any:
    from tests.vllm_plugin.families import shelf

    return shelf.config(way)


class Played:
    """One engine with a programme under way in it."""

    def __init__(self, family: Family, options: dict[str, Any] | None) -> None:
        from vllm import EngineArgs, LLMEngine

        from agentcache.vllm_plugin.compat import on_preempt, on_verified
        from agentcache.vllm_plugin.lab.look_inside import LookInside
        from agentcache.vllm_plugin.launch.command_line import plugin_args
        from agentcache.vllm_plugin.launch.tiny_models import model_dir

        given: dict[str, Any] = {
            "dtype": "float32",
            "max_model_len": 1024,
            "block_size": 32,
            "num_gpu_blocks_override": family.pool + 1,
            "max_num_batched_tokens": 256,
            "max_num_seqs": 8,
            "enforce_eager": True,
            "enable_prefix_caching": True,
            "use_tqdm_on_load": False,
            **family.engine,
            **({"speculative_config": speculative_config(family.drafter)} if family.drafter else {}),
            **({"kv_transfer_config": connector(family.connector)} if family.connector else {}),
            **({} if options is None else plugin_args(options)),
        }
        self.family = family
        self.engine = LLMEngine.from_engine_args(EngineArgs(model_dir(family.model), **given))
        self.view = LookInside(self.engine)
        self.scheduler = self.view.scheduler
        self.met: Counter[str] = Counter()
        self.tally = AnswerTally(family.margin)
        self.asked = 0
        on_preempt(self.scheduler, lambda request, scheduled: self.met.update(["preempted"]))
        on_verified(
            self.scheduler, lambda drafted, accepted: self.met.update({"drafted": drafted, "accepted": accepted})
        )

    def submit(self, prompt: list[int], answer: int, **hints: Any) -> str:
        from vllm import SamplingParams

        self.asked += 1
        params = SamplingParams(
            temperature=0.0, max_tokens=answer, ignore_eos=True, logprobs=2, detokenize=False, extra_args=hints or None
        )
        self.engine.add_request(f"r{self.asked}", {"prompt_token_ids": prompt}, params)
        return f"r{self.asked}"

    def step(self) -> dict[str, tuple[GivenAnswer, int]]:
        """Answers that have ended, with the tokens that were cached for them; counts what was evicted."""
        before = self.content()
        outputs = self.engine.step()
        self.met["evicted"] += len(before - self.content())
        host = self.view.host
        if host and host.residency.admission:
            self.met["held"] += len(host.residency.admission.choice.held)
            host.residency.check()
        return {
            output.request_id: (GivenAnswer.of(output.outputs[0]), output.num_cached_tokens or 0)
            for output in outputs
            if output.finished
        }

    def content(self) -> set[tuple[int, Any]]:
        return {(block.block_id, block.block_hash) for block in self.view.pool.blocks if block.block_hash is not None}

    def alone(self, prompt: list[int], answer: int) -> tuple[GivenAnswer, int]:
        self.submit(prompt, answer)
        while True:
            if ended := self.step():
                ((given, cached),) = ended.values()
                return given, cached

    def cold(self, prompt: list[int], answer: int) -> GivenAnswer:
        assert self.engine.reset_prefix_cache()
        return self.alone(prompt, answer)[0]

    # The programme

    def play(self, turns: dict[tuple[int, int], Turn]) -> None:
        """All turns of all jobs, each when the one before it has ended and its tool has run."""
        due = [(turn.pause, turn) for (_, number), turn in turns.items() if number == 0]
        live: dict[str, Turn] = {}
        step = 0
        while due or live:
            step = step if live else max(step, min(when for when, _ in due))
            for when, turn in sorted(due, key=lambda each: (each[0], each[1].job)):
                if when <= step:
                    live[self.hand_in(turn)] = turn
            due = [(when, turn) for when, turn in due if when > step]
            if step in ABORT and live:
                name, turn = list(live.items())[step % len(live)]
                del live[name]
                self.engine.abort_request([name])
                self.met["aborted"] += 1
                due.append((step + 3, turn))  # its client asks again
            self.disturb(step)
            for name, (answer, cached) in self.step().items():
                turn = live.pop(name)
                self.met["cached"] += cached
                self.tally.compare(turn.cold, answer)
                if later := turns.get((turn.job, turn.number + 1)):
                    due.append((step + later.pause, later))
            step += 1
        self.met["steps"] = step
        self.view.check()

    def hand_in(self, turn: Turn) -> str:
        last = turn.number == TURNS - 1
        hints = {"job_id": f"job {turn.job}", "is_last_step": last, "this_func_call": None if last else "bash"}
        return self.submit(turn.prompt, len(turn.cold.tokens), **hints)

    def disturb(self, step: int) -> None:
        from agentcache.vllm_plugin.compat import preempt

        if step in PREEMPT and self.scheduler.running:
            preempt(self.scheduler, self.scheduler.running[step % len(self.scheduler.running)])
        if step >= RESET and self.scheduler.running and not self.met["reset while it ran"]:
            self.met["reset while it ran"] += 1
            assert self.engine.reset_prefix_cache(reset_running_requests=True)

    def control(self, turn: Turn) -> bool:
        """Whether content of cached blocks that is wrong is seen in the answer, as it must be."""
        assert self.engine.reset_prefix_cache()
        self.alone(turn.prompt, 1)
        for cache in self.view.runner.kv_caches:
            for tensor in cache if isinstance(cache, list | tuple) else (cache,):
                tensor[self.view.cached_block_ids()] = 3.0
        answer, cached = self.alone(turn.prompt, len(turn.cold.tokens))
        tally = AnswerTally(self.family.margin)
        tally.compare(turn.cold, answer)
        assert cached > 0
        return tally.mismatches > 0

    def outcome(self) -> dict[str, Any]:
        host = self.view.host
        kinds = Counter(type(group.kv_cache_spec).__name__ for group in self.scheduler.kv_cache_config.kv_cache_groups)
        return {
            "level": host and str(host.level),
            "groups": kinds,
            "block": self.scheduler.block_size,
            **self.met,
            **asdict(self.tally),
        }


def jobs(engine: Played, rng: random.Random) -> dict[tuple[int, int], Turn]:
    """Turns by job and number: a system prompt that all share, then each job's own words, answers and tool outputs."""
    system, turns = words(rng, 100), {}
    for job in range(JOBS):
        prompt = system + words(rng, rng.randrange(60, 220))
        for number in range(TURNS):
            cold = engine.cold(prompt, rng.choice((6, 12, 40)))
            turns[job, number] = Turn(job, number, prompt, cold, pause=rng.randrange(2, 20) if number else 2 * job)
            prompt = prompt + list(cold.tokens) + words(rng, rng.randrange(10, 100))
    return turns


def words(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(3, 500) for _ in range(count)]


@contextmanager
def on_the_shelf(played: Played) -> Iterator[None]:
    """What a connector of the family's is given stays with it for so long."""
    if not played.family.connector:
        yield
        return
    from tests.vllm_plugin.families.shelf import SHELF

    SHELF.begin()
    yield
    played.met += SHELF.met
    SHELF.open = False


def once_is_enough() -> None:
    """vLLM looks through all modules for kernels to replace at each start, and stumbles over n-gram's compiled ones."""
    from vllm.platforms import current_platform

    type(current_platform).register_triton_kernel_overrides = lambda self: None  # type: ignore[method-assign]


def main() -> None:
    name, levels = json.loads(sys.stdin.read())
    family = FAMILIES[name]
    prepare(threads=1)
    if family.lifted:
        LIFTED[family.lifted]()
    outcomes: dict[str, Any] = {}
    turns: dict[tuple[int, int], Turn] = {}
    for level in (None, *levels):
        options = {"admission": "working-set", "level": None if level == family.level else level}
        played = Played(family, options if level else None)
        turns = turns or jobs(played, random.Random(1))
        assert played.engine.reset_prefix_cache()
        played.met.clear()
        with on_the_shelf(played):
            played.play(turns)
        once_is_enough()
        outcomes[level or "stock"] = played.outcome() | {"control": played.control(turns[JOBS - 1, TURNS - 1])}
        played.engine.engine_core.shutdown()
        del played
        gc.collect()
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
