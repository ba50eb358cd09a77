"""A real engine in this process: asked for whole batches, its blocks within reach."""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from agentcache.model import Event, TurnScheduled
from agentcache.vllm_plugin.copies.orders import ORDERS, Orders
from agentcache.vllm_plugin.lab.verify.compare import GivenAnswer
from agentcache.vllm_plugin.lab.verify.engine.cases import BLOCK_SIZE, BUDGETS, MAX_LEN, POOLS, Setting
from agentcache.vllm_plugin.lab.verify.programs import ANSWER_TOKENS, Submit

GARBAGE = 1e4
"""What a block holds when it is handed out. Not NaN: vLLM's CPU kernel multiplies unwritten slots by zero."""


class Hearing(Protocol):
    """Whoever is told what happens in the engine."""

    def scheduled(self, event: TurnScheduled) -> None: ...

    def preempting(self, request: Any, scheduled: bool) -> None: ...

    def allocated(self, block_ids: list[int]) -> None: ...


def classes(setting: Setting) -> dict[str, Any]:
    """The engine arguments that name a setting's scheduler, worker and attention, ours or vLLM's own."""
    from agentcache.vllm_plugin.compat import AsyncScheduler, Scheduler
    from agentcache.vllm_plugin.launch.command_line import plugin_args

    ahead = setting.scheduler == "async"
    if not setting.plugin:
        return {"scheduler_cls": AsyncScheduler if ahead else Scheduler}
    options: dict[str, Any] = {"policy": setting.policy, "mode": setting.mode}
    if setting.host_memory:
        options |= {"host_memory": setting.host_memory, "host_policy": setting.policy}
    plugin = plugin_args(options, asynchronous=ahead)
    if setting.runner == "v2":
        plugin["attention_backend"] = "CUSTOM"
    if setting.worker == "stock":
        del plugin["worker_cls"]
    return plugin


class RealEngine:
    """Prompts are token ids, answers greedy. `blocks` can be used, of which `ballast` is taken for nothing."""

    def __init__(self, setting: Setting, blocks: int = POOLS[-1], step_tokens: int = BUDGETS[-1]) -> None:
        from vllm import EngineArgs, LLMEngine

        from agentcache.vllm_plugin.compat import on_preempt
        from agentcache.vllm_plugin.lab.look_inside import LookInside
        from agentcache.vllm_plugin.launch.tiny_models import model_dir

        folder = model_dir(setting.model)
        self.vocab_size = int(json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["vocab_size"])
        self.setting = setting
        self.engine = LLMEngine.from_engine_args(
            EngineArgs(
                folder,
                dtype=setting.dtype,
                seed=setting.seed,
                max_model_len=MAX_LEN,
                block_size=BLOCK_SIZE,
                num_gpu_blocks_override=blocks + 1,  # one is vLLM's null block
                max_num_batched_tokens=step_tokens,
                max_num_seqs=8,
                enforce_eager=True,
                use_tqdm_on_load=False,
                scheduling_policy=setting.order,
                long_prefill_token_threshold=setting.threshold,
                **classes(setting),
            )
        )
        self.hearing: Hearing | None = None
        self.view = LookInside(self.engine)
        self.view.listen(self._hear)
        self.view.on_allocate(self._allocated)
        self.scheduler = self.view.scheduler
        # A long prompt need not fit as a whole to be begun: pools are to overflow in the middle of one.
        self.scheduler.scheduler_reserve_full_isl = not setting.threshold
        on_preempt(self.scheduler, self._preempting)
        self.porter = getattr(self.scheduler, "porter", None)
        self._handed_out: list[int] = []  # blocks that have yet to be copied down, before they are garbage
        if self.porter:
            self._watch_copies()
        self._ballast: list[Any] = []
        self._asked = 0

    def _hear(self, event: Event, now: float) -> None:
        if self.hearing and isinstance(event, TurnScheduled):
            self.hearing.scheduled(event)

    def _allocated(self, block_ids: list[int]) -> None:
        self._handed_out += block_ids
        if not self.porter:
            self._spoil()
        if self.hearing:
            self.hearing.allocated(block_ids)

    def _spoil(self) -> None:
        self.view.poison(self._handed_out, GARBAGE)
        self._handed_out = []

    def _watch_copies(self) -> None:
        """What is handed out is garbage as soon as a step has copied down what it held."""
        memory, execute = self.view.worker._memory, self.view.worker.execute_model
        down, up = memory.copy_down, memory.copy_up

        def copy_down(orders: Orders, *args: Any) -> None:
            down(orders, *args)
            self._spoil()

        def copy_up(orders: Orders, *args: Any) -> None:
            self._spoil()
            up(orders, *args)

        def execute_model(output: Any, *args: Any, **kwargs: Any) -> Any:
            if not getattr(output, ORDERS, None):
                self._spoil()
            return execute(output, *args, **kwargs)

        memory.copy_down, memory.copy_up = copy_down, copy_up
        self.view.worker.execute_model = execute_model

    def _preempting(self, request: Any, scheduled: bool) -> None:
        if self.hearing:
            self.hearing.preempting(request, scheduled)

    # Asking

    def submit(self, prompt: list[int], op: Submit) -> str:
        """Hand in a request whose every token is the most likely one; returns its name."""
        from vllm import SamplingParams

        from agentcache.vllm_plugin.compat import RequestOutputKind

        self._asked += 1
        name = f"r{self._asked}"
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

    def step(self) -> dict[str, list[GivenAnswer]]:
        """One step; answers of the requests that have ended in it."""
        return {
            output.request_id: [GivenAnswer.of(choice) for choice in output.outputs]
            for output in self.engine.step()
            if output.finished
        }

    def ask(
        self, prompts: Sequence[list[int]], tokens: int = ANSWER_TOKENS, salt: str | None = None
    ) -> list[GivenAnswer]:
        """Run prompts together until all are answered with so many tokens; answers in their order."""
        names = [self.submit(prompt, Submit(0, answer=tokens, salt=salt)) for prompt in prompts]
        answers: dict[str, list[GivenAnswer]] = {}
        while self.engine.has_unfinished_requests():
            answers |= self.step()
        return [answers[name][0] for name in names]

    def cold(self, prompt: list[int], tokens: int = ANSWER_TOKENS) -> GivenAnswer:
        """The answer of an engine that remembers nothing."""
        self.engine.reset_prefix_cache()
        (answer,) = self.ask([prompt], tokens)
        return answer

    def limit(self, tokens: int) -> None:
        """Let a step compute at most so many tokens from now on."""
        self.scheduler.max_num_scheduled_tokens = tokens

    @property
    def rebuilding(self) -> dict[str, Any]:
        """Requests in the middle of a rebuild, by name; vLLM alone has none."""
        return self.scheduler.kv_cache_manager.runs if self.view.active else {}

    # Its pool

    def evict(self, rng: random.Random, block_ids: Iterable[int], share: float, clustered: bool, chunk: int) -> int:
        """Evict a share of these blocks, in runs of `chunk` positions, and fill them with NaN; returns how many.

        `clustered`: the same positions of all contexts go, as when heads are evicted.
        """
        blocks, doomed, fates = self.view.pool.blocks, list[int](), dict[int, bool]()
        for number in block_ids:
            position = (blocks[number].block_hash_num_tokens // BLOCK_SIZE - 1) // chunk
            if fates.setdefault(position, rng.random() < share) if clustered else rng.random() < share:
                doomed.append(number)
        self.view.evict(doomed)
        self.view.poison(doomed)
        return len(doomed)

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
    def ballast(self) -> list[int]:
        """Blocks that count a reference which no request holds, as often as they do."""
        held = self.porter.holding().elements() if self.porter else ()
        return [*(block.block_id for block in self._ballast), *held]
