"""A case in a real engine: `python -m` this module runs many, a setting and cases as JSON lines.

In a process of its own, because a case may break the engine, and an engine does not give back all it took.
"""

import faulthandler
import os
import random
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any, TextIO

import msgspec

from agentcache.errors import CheckFailed
from agentcache.model import TurnScheduled
from agentcache.vllm_plugin.lab.verify.compare import MARGINS, AnswerTally, GivenAnswer
from agentcache.vllm_plugin.lab.verify.engine import contexts
from agentcache.vllm_plugin.lab.verify.engine.cases import BLOCK_SIZE, BUDGETS, EQUAL_BUDGET, MAX_LEN, Case, Setting
from agentcache.vllm_plugin.lab.verify.engine.outcome import Outcome
from agentcache.vllm_plugin.lab.verify.engine.real import GARBAGE, RealEngine
from agentcache.vllm_plugin.lab.verify.programs import ANSWER_TOKENS, Budget, Corrupt, Evict, Op, Sleep, Squeeze, Submit
from agentcache.vllm_plugin.lab.verify.rig import Rig

HANG_S = 300
TURN_TOKENS, CHUNKS = {"v1": 400, "v2": 100}, {"v1": 12, "v2": 5}
"""Bounds of a drawn turn, and of a context in chunks: the second runner's kernels are interpreted, token by token."""


class ColdAnswers:
    """What an engine that remembers nothing answers to each context in each shape; asked once."""

    def __init__(self, engine: RealEngine) -> None:
        self._engine, runner = engine, engine.setting.runner
        rng = random.Random(engine.setting.seed)
        self._contexts = contexts.with_edges(rng, engine.vocab_size, TURN_TOKENS[runner])
        self._chunked = contexts.whole_chunks(rng, engine.vocab_size, CHUNKS[runner])
        self._known: dict[tuple[int, str, bool], tuple[list[int], GivenAnswer]] = {}

    def of(self, context: int, shape: str, equal: bool) -> tuple[list[int], GivenAnswer]:
        """A prompt and its answer; `equal`: of a context of whole chunks, computed chunk by chunk."""
        if known := self._known.get((context, shape, equal)):
            return known
        prompt = (self._chunked if equal else self._contexts)[context]
        if shape == "cut":
            prompt = prompt[: max(1, 2 * len(prompt) // 3)]
        elif shape == "aligned":
            prompt = prompt[: len(prompt) // BLOCK_SIZE * BLOCK_SIZE] or prompt
        elif shape == "follow-up":
            _, said = self.of(context, "whole", equal)
            rng = random.Random(context)
            tool = contexts.tokens(rng, rng.randrange(1, 90), self._engine.vocab_size)
            prompt = [*prompt, *said.tokens, *tool][: MAX_LEN - ANSWER_TOKENS]
        self._engine.limit(EQUAL_BUDGET if equal else BUDGETS[-1])
        known = self._known[context, shape, equal] = prompt, self._engine.cold(prompt)
        return known


class EngineRun(Rig):
    """A case under way. `met` counts the paths that it has walked."""

    most_steps = 20_000  # the longest drawn ones take a few hundred

    def __init__(self, engine: RealEngine, cold: ColdAnswers, equal: bool) -> None:
        super().__init__(engine.scheduler)
        self._engine, self._cold, self._equal = engine, cold, equal
        self._asked: dict[str, Submit] = {}
        self._gone: set[str] = set()
        self._fresh: set[int] = set()  # handed out in the step under way
        self._keyed: set[int] = set()  # with a key when it began
        self._with_holes: set[str] = set()
        self._salts: set[str | None] = set()
        self._counts = Outcome()
        self._tally = AnswerTally(MARGINS[engine.setting.dtype])
        self._stepping = False

    # What the engine tells

    def scheduled(self, event: TurnScheduled) -> None:
        """The first of a salt must find nothing: what is there belongs to another."""
        salt = self._asked[_outer(event.turn)].salt
        if salt not in self._salts and event.cached:
            raise CheckFailed(f"the first request of salt {salt!r} found {event.cached} tokens of others'")
        self._salts.add(salt)
        super().scheduled(event)
        self._counts.hear(event)
        if event.holes:
            self._with_holes.add(event.turn)
        self.met["loaded"] += event.loaded > 0
        self.met["wholly resident"] += event.cached > 0 and event.tokens - event.cached <= BLOCK_SIZE

    def preempting(self, request: Any, scheduled: bool) -> None:
        """A request loses its blocks, for others or because it is told to."""
        if self._stepping:
            table = self.manager.coordinator.single_type_managers[0].req_to_blocks[request.request_id]
            new = [block for block in table if block.block_id in self._fresh or block.block_id not in self._keyed]
            keyed = scheduled and any(block.block_hash for block in new)
            self.met["preempted for want of blocks"] += 1
            self.met["preempted in the step it was scheduled in"] += scheduled
            self.met["keys withdrawn in the step that gave them"] += keyed

    def allocated(self, block_ids: list[int]) -> None:
        self._fresh.update(block_ids)

    # Operations

    def perform(self, op: Op) -> None:
        match op:
            case Squeeze(free):
                with self._engine.smaller_pool(self._engine.view.free_blocks - free):
                    self.step()
            case Corrupt():
                self._engine.view.poison(self._engine.view.cached_block_ids(), GARBAGE)
            case Sleep():
                self.met["sleep and wake"] += 1
                with self._engine.whole_pool():
                    self._engine.engine.sleep(level=1, mode="keep")
                    self._engine.engine.wake_up()
            case Budget(tokens):
                self.met[f"budget {tokens}"] += 1
                super().perform(op)
            case _:
                super().perform(op)

    def submit(self, op: Submit) -> None:
        prompt, _ = self._cold.of(op.context, op.shape, self._equal)
        self._asked[self._engine.submit(prompt, op)] = op
        self.met["several samples"] += op.samples > 1
        self.met["salted"] += op.salt is not None
        self.met["prompt of whole blocks"] += len(prompt) % BLOCK_SIZE == 0

    def is_idle(self) -> bool:
        return not self._engine.engine.has_unfinished_requests()

    def step(self) -> None:
        self._stepping = True
        self._fresh.clear()
        self._keyed = {block.block_id for block in self.pool.blocks if block.block_hash}
        done = self._engine.step()
        self._stepping = False
        for name, answers in done.items():
            if name in self._gone:
                raise CheckFailed(f"request {name} was aborted, and has an answer")
            self._compare(self._asked.pop(name), answers)
        self.met["steps"] += 1
        self.recount()

    def _compare(self, op: Submit, answers: list[GivenAnswer]) -> None:
        if [len(answer.tokens) for answer in answers] != [op.answer] * op.samples:
            raise CheckFailed(f"{op} was answered by {answers}")
        _, expected = self._cold.of(op.context, op.shape, self._equal)
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

    def evict(self, op: Evict) -> None:
        cached = sorted(self._engine.view.cached_block_ids(), key=lambda number: self.pool.blocks[number].block_hash)
        gone = self._engine.evict(random.Random(op.seed), cached, op.share, op.clustered, op.chunk_blocks)
        self.met["evicted while requests run"] += bool(gone and self.scheduler.running)

    def choose(self, requests: list[Any], number: int) -> Any:
        """Those in the middle of a rebuild first."""
        rebuilding = [request for request in requests if request.request_id in self._engine.rebuilding]
        return super().choose(rebuilding or requests, number)

    def abort(self, request: Any) -> None:
        self.met["abort"] += 1
        self.met["abort in a rebuild"] += self._is_rebuilding(request)
        name = _outer(request.request_id)
        del self._asked[name]
        self._gone.add(name)
        self._engine.engine.abort_request([name])

    def preempt(self, request: Any) -> None:
        self.met["preempted"] += 1
        self.met["preempted in a rebuild"] += self._is_rebuilding(request)
        super().preempt(request)

    def reset(self, running: bool) -> None:
        self.met["reset in a rebuild"] += running and any(map(self._is_rebuilding, self.scheduler.running))
        with self._engine.whole_pool():
            below = bool(self._engine.porter and self._engine.porter.tier.held_blocks)
            self.met["reset with blocks below"] += below
            self.met["reset"] += self._engine.engine.reset_prefix_cache(reset_running_requests=running)

    def _is_rebuilding(self, request: Any) -> bool:
        return request.request_id in self._engine.rebuilding and request in self.scheduler.running

    # What must hold

    def recount(self) -> None:
        """Reference counts against the block tables that are there; who shares a block has the same salt."""
        if not self._engine.view.active:
            return
        holders, blocks, requests = self.holders(), self.pool.blocks, self.scheduler.requests
        self.check_references(holders, self._engine.ballast)
        for number, names in holders.items():
            if len({requests[name].cache_salt for name in names}) > 1:
                raise CheckFailed(f"block {number} is shared by requests of different salts: {names}")
        shared = {number for number, names in holders.items() if len(names) > 1}
        self.met["a block of several requests"] += bool(shared)
        # A block has its key from when it is scheduled, so a later request of the step takes it as it is computed.
        missed = {number for number in shared & self._fresh if not self._with_holes.isdisjoint(holders[number])}
        self.met["a missing block of several requests in one step"] += bool(missed)
        filled = Counter(
            blocks[number].block_hash
            for number, names in holders.items()
            if blocks[number].block_hash and self._with_holes.issuperset(names)
        )
        self.met["a hole filled by several requests"] += any(count > 1 for count in filled.values())
        self.pool.free_block_queue.check()

    def outcome(self) -> Outcome:
        """Raises `CheckFailed` for a request that was never answered."""
        if self._asked:
            raise CheckFailed(f"never answered: {self._asked}")
        self._counts.take(self._tally)
        self._counts.paths = dict(self.met)
        return self._counts


def _outer(request_id: str) -> str:
    """The name under which a request was handed in: vLLM adds a suffix of its own, and a prefix for each sample."""
    return request_id.split("_")[-1].split("-")[0]


def run(engine: RealEngine, cold: ColdAnswers, case: Case) -> Outcome:
    """Run a case in the engine, which must be idle, and leave it idle."""
    for op in case.ops:
        if isinstance(op, Submit):
            cold.of(op.context, op.shape, case.equal)
    engine.engine.reset_prefix_cache()
    engine.limit(BUDGETS[-1])
    engine.hearing = under_way = EngineRun(engine, cold, case.equal)
    with engine.smaller_pool(engine.view.free_blocks - case.pool):
        under_way.run(case.ops)
    engine.hearing = None
    engine.view.check()
    return under_way.outcome()


def serve(requests: Iterable[str], answers: TextIO) -> None:
    """The setting is the first line, each further one a case; answers an `Outcome` a line until the engine breaks."""
    lines = iter(requests)
    setting = msgspec.json.decode(next(lines), type=Setting)
    from agentcache.vllm_plugin.launch.cpu_env import interpret_triton, prepare

    prepare(threads=1)  # one thread adds numbers up in one order
    if setting.runner == "v2":
        interpret_triton()
    engine = RealEngine(setting)
    cold = ColdAnswers(engine)
    print("{}", file=answers, flush=True)
    for line in lines:
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        try:
            outcome = run(engine, cold, msgspec.json.decode(line, type=Case))
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
