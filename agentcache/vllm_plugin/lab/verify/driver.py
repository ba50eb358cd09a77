"""Runs cases in one real engine: `python -m` this module, a setting and cases as JSON lines.

In a process of its own, because a case may break the engine, and an engine does not give back all it took.
"""

import faulthandler
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import msgspec

from agentcache.errors import CheckFailed
from agentcache.model import Event, TurnScheduled
from agentcache.vllm_plugin.lab.verify import cases
from agentcache.vllm_plugin.lab.verify.compare import MARGINS, Answer, Tally
from agentcache.vllm_plugin.lab.verify.outcome import Outcome
from agentcache.vllm_plugin.lab.verify.sizes import ANSWER_TOKENS, BLOCK_SIZE, GARBAGE, MAX_LEN

HANG_S = 300
TURN_TOKENS, CHUNKS = {"v1": 400, "v2": 100}, {"v1": 12, "v2": 5}
"""Bounds of a drawn turn, and of a context in chunks: the second runner's kernels are interpreted, token by token."""
MAX_STEPS = 20_000
"""Of one case; the longest drawn ones take a few hundred."""


def contexts(rng: random.Random, vocab_size: int, turn_tokens: int) -> list[list[int]]:
    """As agents make them, and lengths at which programs go wrong: below a block, one block, one more token."""
    from agentcache.vllm_plugin.lab.verify.experiment import prompts

    drawn = sorted(prompts(rng, vocab_size, turn_tokens), key=len)[3 - cases.CONTEXTS :]
    edges = [[rng.randrange(3, vocab_size) for _ in range(count)] for count in (7, BLOCK_SIZE, 4 * BLOCK_SIZE + 1)]
    return [*drawn, *edges]


def whole_chunks(rng: random.Random, vocab_size: int, most: int) -> list[list[int]]:
    """Contexts of whole chunks of the equal budget and a tail shorter than a block, of which nothing is ever cached."""
    chunks = [rng.randrange(3, most) for _ in range(cases.CONTEXTS)]
    lengths = [count * cases.EQUAL_BUDGET + rng.randrange(1, BLOCK_SIZE) for count in chunks]
    return [[rng.randrange(3, vocab_size) for _ in range(length)] for length in lengths]


def classes(setting: cases.Setting) -> dict[str, Any]:
    """The engine arguments that name a setting's scheduler, worker and attention, ours or vLLM's own."""
    from agentcache.vllm_plugin.compat import AsyncScheduler, Scheduler
    from agentcache.vllm_plugin.launch.command_line import plugin_args

    ahead = setting.scheduler == "async"
    if not setting.plugin:
        return {"scheduler_cls": AsyncScheduler if ahead else Scheduler}
    plugin = plugin_args({"policy": setting.policy, "mode": setting.mode}, asynchronous=ahead)
    if setting.runner == "v2":
        plugin["attention_backend"] = "CUSTOM"
    if setting.worker == "stock":
        del plugin["worker_cls"]
    return plugin


class Driver:
    """One in-process engine, and what it answers when it remembers nothing."""

    def __init__(self, setting: cases.Setting) -> None:
        from vllm import EngineArgs, LLMEngine

        from agentcache.vllm_plugin.compat import on_preempt
        from agentcache.vllm_plugin.lab.look_inside import EngineView
        from agentcache.vllm_plugin.launch.tiny_models import model_dir

        folder = model_dir(setting.model)
        self.engine = LLMEngine.from_engine_args(
            EngineArgs(
                folder,
                dtype=setting.dtype,
                seed=setting.seed,
                max_model_len=MAX_LEN,
                block_size=BLOCK_SIZE,
                num_gpu_blocks_override=cases.POOLS[-1] + 1,  # one is vLLM's null block
                max_num_batched_tokens=cases.BUDGETS[-1],
                max_num_seqs=8,
                enforce_eager=True,
                use_tqdm_on_load=False,
                scheduling_policy=setting.order,
                long_prefill_token_threshold=setting.threshold,
                **classes(setting),
            )
        )
        self.view = EngineView(self.engine)
        self.view.listen(self._hear)
        self.view.on_allocate(self._allocated)
        self.scheduler = self.view.scheduler
        # A long prompt need not fit as a whole to be begun: pools are to overflow in the middle of one.
        self.scheduler.scheduler_reserve_full_isl = not setting.threshold
        on_preempt(self.scheduler, self._preempting)
        self.manager = self.scheduler.kv_cache_manager
        self.margin = MARGINS[setting.dtype]
        rng = random.Random(setting.seed)
        vocab_size = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        self._vocab_size = vocab_size
        self._contexts = contexts(rng, vocab_size, TURN_TOKENS[setting.runner])
        self._chunked = whole_chunks(rng, vocab_size, CHUNKS[setting.runner])
        self._ballast: list[Any] = []
        self._cold: dict[tuple[int, str, bool], tuple[list[int], Answer]] = {}
        self._names = 0
        self.limit(cases.BUDGETS[-1])

    def run(self, case: cases.Case) -> Outcome:
        """Run a case in the engine, which must be idle, and leave it idle."""
        for op in case.ops:
            if isinstance(op, cases.Submit):
                self._reference(op.context, op.shape, case.equal)
        self.engine.reset_prefix_cache()
        self.limit(cases.BUDGETS[-1])
        run = _Run(self, case.equal)
        self._running: _Run | None = run
        with self.smaller_pool(self.view.free_blocks - case.pool):
            for op in case.ops:
                run.do(op)
                run.recount()
        self._running = None
        self.view.check()
        return run.outcome()

    @contextmanager
    def smaller_pool(self, fewer: int) -> Iterator[None]:
        """Have so many more blocks taken, that nobody uses."""
        before = len(self._ballast)
        self._ballast += self.view.pool.get_new_blocks(max(0, fewer))
        yield
        self._ballast, taken = self._ballast[:before], self._ballast[before:]
        self.view.pool.free_blocks(taken)

    @contextmanager
    def whole_pool(self) -> Iterator[None]:
        """Give the blocks back for a while: a pool of which blocks are taken is not reset."""
        fewer = len(self._ballast)
        self.view.pool.free_blocks(self._ballast)
        yield
        self._ballast = self.view.pool.get_new_blocks(fewer)

    @property
    def ballast(self) -> set[int]:
        return {block.block_id for block in self._ballast}

    def _reference(self, context: int, shape: str, equal: bool) -> tuple[list[int], Answer]:
        """A prompt and the answer of an engine that remembers nothing."""
        known = self._cold.get((context, shape, equal))
        if known:
            return known
        prompt = (self._chunked if equal else self._contexts)[context]
        if shape == "cut":
            prompt = prompt[: max(1, 2 * len(prompt) // 3)]
        elif shape == "aligned":
            prompt = prompt[: len(prompt) // BLOCK_SIZE * BLOCK_SIZE] or prompt
        elif shape == "follow-up":
            _, said = self._reference(context, "whole", equal)
            rng = random.Random(context)
            tool = [rng.randrange(3, self._vocab_size) for _ in range(rng.randrange(1, 90))]
            prompt = [*prompt, *said.tokens, *tool][: MAX_LEN - ANSWER_TOKENS]
        self.engine.reset_prefix_cache()
        self.limit(cases.EQUAL_BUDGET if equal else cases.BUDGETS[-1])
        name = self.submit(prompt, cases.Submit(context))
        (answer,) = self.step_until_idle()[name]
        self._cold[context, shape, equal] = prompt, answer
        return prompt, answer

    def reference(self, op: cases.Submit, equal: bool) -> tuple[list[int], Answer]:
        return self._cold[op.context, op.shape, equal]

    # The engine

    def submit(self, prompt: list[int], op: cases.Submit) -> str:
        """Hand in a request whose every token is the most likely one; returns its name."""
        from vllm import SamplingParams

        from agentcache.vllm_plugin.compat import RequestOutputKind

        self._names += 1
        name = f"r{self._names}"
        params = SamplingParams(
            # Several samples may not be asked of a greedy request; of one candidate they are all the same.
            **({"temperature": 0.0} if op.samples == 1 else {"n": op.samples, "temperature": 1.0, "top_k": 1}),
            max_tokens=op.answer,
            ignore_eos=True,
            logprobs=2,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        given = {"prompt_token_ids": prompt, **({"cache_salt": op.salt} if op.salt else {})}
        self.engine.add_request(name, given, params, priority=op.urgency)
        return name

    def step(self) -> dict[str, list[Answer]]:
        """One step; answers of the requests that have ended in it."""
        return {
            output.request_id: [Answer.of(choice) for choice in output.outputs]
            for output in self.engine.step()
            if output.finished
        }

    def step_until_idle(self) -> dict[str, list[Answer]]:
        answers: dict[str, list[Answer]] = {}
        while self.engine.has_unfinished_requests():
            answers |= self.step()
        return answers

    def limit(self, tokens: int) -> None:
        self.scheduler.max_num_scheduled_tokens = tokens

    def _allocated(self, ids: list[int]) -> None:
        self.view.poison(ids, GARBAGE)
        if self._running:
            self._running.fresh.update(ids)

    def _hear(self, event: Event, now: float) -> None:
        if self._running and isinstance(event, TurnScheduled):
            self._running.scheduled(event)

    def _preempting(self, request: Any, scheduled: bool) -> None:
        if self._running:
            self._running.preempting(request, scheduled)

    @property
    def runs(self) -> dict[str, Any]:
        """Requests in the middle of a rebuild; vLLM alone has none."""
        return self.manager.runs if self.view.active else {}

    _running: "_Run | None" = None


class _Run:
    """A case under way."""

    def __init__(self, driver: Driver, equal: bool) -> None:
        self._driver, self._equal = driver, equal
        self._asked: dict[str, cases.Submit] = {}
        self._gone: set[str] = set()
        self.fresh: set[int] = set()  # handed out in the step under way
        self._keyed: set[int] = set()  # with a key when it began
        self._with_holes: set[str] = set()
        self._salts: set[str | None] = set()
        self._counts = Outcome()
        self._tally = Tally(driver.margin)
        self._paths: Counter[str] = Counter()
        self._steps = 0
        self._stepping = False

    def do(self, op: cases.Op) -> None:
        driver = self._driver
        match op:
            case cases.Submit():
                prompt, _ = driver.reference(op, self._equal)
                self._asked[driver.submit(prompt, op)] = op
                self._paths["several samples"] += op.samples > 1
                self._paths["salted"] += op.salt is not None
                self._paths["prompt of whole blocks"] += len(prompt) % BLOCK_SIZE == 0
            case cases.Step():
                for _ in range(op.count):
                    self._step()
            case cases.Drain():
                while driver.engine.has_unfinished_requests():
                    self._step()
            case cases.Evict():
                self._evict(op)
            case cases.Corrupt():
                driver.view.poison(driver.view.cached_block_ids(), GARBAGE)
            case cases.Abort():
                self._abort(op)
            case cases.Preempt():
                self._preempt(op)
            case cases.Reset():
                self._paths["reset in a rebuild"] += op.running and any(
                    map(self._is_rebuilding, driver.scheduler.running)
                )
                with driver.whole_pool():
                    self._paths["reset"] += driver.engine.reset_prefix_cache(reset_running_requests=op.running)
            case cases.Budget():
                self._paths[f"budget {op.tokens}"] += 1
                driver.limit(op.tokens)
            case cases.Squeeze():
                with driver.smaller_pool(driver.view.free_blocks - op.free):
                    self._step()
            case cases.Sleep():
                self._paths["sleep and wake"] += 1
                with driver.whole_pool():
                    driver.engine.sleep(level=1, mode="keep")
                    driver.engine.wake_up()

    def scheduled(self, event: TurnScheduled) -> None:
        """Count what was found. The first of a salt must find nothing: what is there belongs to another."""
        salt = self._asked[_outer(event.turn)].salt
        if salt not in self._salts and event.cached:
            raise CheckFailed(f"the first request of salt {salt!r} found {event.cached} tokens of others'")
        self._salts.add(salt)
        counts = self._counts
        counts.prompt_tokens += event.tokens
        counts.recomputed_tokens += event.tokens - event.cached
        counts.tokens_after_hole += event.after_hole
        counts.holes += event.holes
        missing = event.tokens - event.cached
        if event.holes:
            self._with_holes.add(event.turn)
        self._paths["holes"] += event.holes > 0
        self._paths["several holes"] += event.holes > 1
        self._paths["wholly resident"] += event.cached > 0 and missing <= BLOCK_SIZE

    def preempting(self, request: Any, scheduled: bool) -> None:
        """A request loses its blocks, for others or because it is told to."""
        if self._stepping:
            table = self._driver.manager.coordinator.single_type_managers[0].req_to_blocks[request.request_id]
            new = [block for block in table if block.block_id in self.fresh or block.block_id not in self._keyed]
            keyed = scheduled and any(block.block_hash for block in new)
            self._paths["preempted for want of blocks"] += 1
            self._paths["preempted in the step it was scheduled in"] += scheduled
            self._paths["keys withdrawn in the step that gave them"] += keyed

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise CheckFailed(f"{len(self._asked)} requests, and no end after {MAX_STEPS} steps")
        self._stepping = True
        self.fresh.clear()
        self._keyed = {block.block_id for block in self._driver.view.pool.blocks if block.block_hash}
        done = self._driver.step()
        self._stepping = False
        for name, answers in done.items():
            if name in self._gone:
                raise CheckFailed(f"request {name} was aborted, and has an answer")
            op = self._asked.pop(name)
            if [len(answer.tokens) for answer in answers] != [op.answer] * op.samples:
                raise CheckFailed(f"{op} was answered by {answers}")
            _, expected = self._driver.reference(op, self._equal)
            comparable = op.answer
            if op.samples > 1 and 0.0 in expected.margins:
                # Of two that are equally likely, a request that samples takes either.
                comparable = min(comparable, expected.margins.index(0.0))
            for answer in answers:
                cold = expected.first(comparable)
                self._tally.compare(cold, answer.first(comparable))
                if self._equal:
                    self._counts.equal_answers += 1
                    self._counts.bit_differences += answer != cold
        self._paths["steps"] += 1
        self.recount()

    def _evict(self, op: cases.Evict) -> None:
        rng = random.Random(op.seed)
        view, doomed, fates = self._driver.view, [], dict[int, bool]()
        for number in sorted(view.cached_block_ids(), key=lambda number: view.pool.blocks[number].block_hash):
            position = (view.pool.blocks[number].block_hash_num_tokens // BLOCK_SIZE - 1) // op.chunk_blocks
            if fates.setdefault(position, rng.random() < op.share) if op.clustered else rng.random() < op.share:
                doomed.append(number)
        self._paths["evicted while requests run"] += bool(doomed and self._driver.scheduler.running)
        view.evict(doomed)
        view.poison(doomed, GARBAGE)

    def _live(self, requests: Iterable[Any], number: int) -> Any:
        """The n-th of them, those in the middle of a rebuild first; None if there is none."""
        runs = self._driver.runs
        ranked = sorted(requests, key=lambda request: request.request_id not in runs)
        rebuilding = [request for request in ranked if request.request_id in runs]
        chosen = rebuilding or ranked
        return chosen[number % len(chosen)] if chosen else None

    def _abort(self, op: cases.Abort) -> None:
        scheduler = self._driver.scheduler
        request = self._live(scheduler.requests.values(), op.number)
        if request is None:
            return
        self._paths["abort"] += 1
        self._paths["abort in a rebuild"] += self._is_rebuilding(request)
        name = _outer(request.request_id)
        del self._asked[name]
        self._gone.add(name)
        self._driver.engine.abort_request([name])

    def _preempt(self, op: cases.Preempt) -> None:
        from agentcache.vllm_plugin.compat import preempt

        request = self._live(self._driver.scheduler.running, op.number)
        if request is None:
            return
        self._paths["preempted"] += 1
        self._paths["preempted in a rebuild"] += self._is_rebuilding(request)
        preempt(self._driver.scheduler, request)

    def _is_rebuilding(self, request: Any) -> bool:
        return request.request_id in self._driver.runs and request in self._driver.scheduler.running

    def recount(self) -> None:
        """Reference counts against the block tables that are there; who shares a block has the same salt."""
        if not self._driver.view.active:
            return
        pool, requests = self._driver.view.pool, self._driver.scheduler.requests
        holders: dict[int, list[str]] = {}
        ballast = self._driver.ballast
        for name, block in self._driver.manager.group.references():
            holders.setdefault(block.block_id, []).append(name)
        for block in pool.blocks[1:]:
            names = holders.get(block.block_id, ())
            if block.ref_cnt != len(names) + (block.block_id in ballast):
                raise CheckFailed(f"block {block.block_id} counts {block.ref_cnt} references, requests hold {names}")
            if len({requests[name].cache_salt for name in names}) > 1:
                raise CheckFailed(f"block {block.block_id} is shared by requests of different salts: {names}")
        shared = {number for number, names in holders.items() if len(names) > 1}
        self._paths["a block of several requests"] += bool(shared)
        # A block has its key from when it is scheduled, so a later request of the step takes it as it is computed.
        missed = {number for number in shared & self.fresh if not self._with_holes.isdisjoint(holders[number])}
        self._paths["a missing block of several requests in one step"] += bool(missed)
        filled = Counter(
            pool.blocks[number].block_hash
            for number, names in holders.items()
            if pool.blocks[number].block_hash and self._with_holes.issuperset(names)
        )
        self._paths["a hole filled by several requests"] += any(count > 1 for count in filled.values())
        pool.free_block_queue.check()

    def outcome(self) -> Outcome:
        """Raises `CheckFailed` for a request that was never answered."""
        if self._asked:
            raise CheckFailed(f"never answered: {self._asked}")
        counts, tally = self._counts, self._tally
        counts.mismatches, counts.near_ties, counts.tokens = tally.mismatches, tally.near_ties, tally.tokens
        counts.max_logprob_diff = tally.max_logprob_diff
        counts.paths = dict(self._paths)
        return counts


def _outer(request_id: str) -> str:
    """The name under which a request was handed in: vLLM adds a suffix of its own, and a prefix for each sample."""
    return request_id.split("_")[-1].split("-")[0]


def serve(requests: Iterable[str], answers: TextIO) -> None:
    """The setting is the first line, each further one a case; answers an `Outcome` a line until the engine breaks."""
    lines = iter(requests)
    setting = msgspec.json.decode(next(lines), type=cases.Setting)
    from agentcache.vllm_plugin.launch.cpu_env import interpret_triton, prepare

    prepare(threads=1)  # one thread adds numbers up in one order
    if setting.runner == "v2":
        interpret_triton()
    driver = Driver(setting)
    print("{}", file=answers, flush=True)
    for line in lines:
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        try:
            outcome = driver.run(msgspec.json.decode(line, type=cases.Case))
        except Exception as error:  # whatever it is, it is the finding
            import traceback

            traceback.print_exc()
            outcome = Outcome(fault=f"{type(error).__name__}: {error}", broken=True)
        faulthandler.cancel_dump_traceback_later()
        print(msgspec.json.encode(outcome).decode(), file=answers, flush=True)
        if outcome.broken:
            return


if __name__ == "__main__":
    # vLLM and its libraries print where they like.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as channel:
        os.dup2(2, 1)
        serve(sys.stdin, channel)
