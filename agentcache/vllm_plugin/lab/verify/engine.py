"""The engine under test: asked for whole batches, with its blocks within reach."""

import random
from collections.abc import Sequence

from agentcache.model import Event, TurnScheduled
from agentcache.vllm_plugin.lab.look_inside import EngineView
from agentcache.vllm_plugin.lab.verify.compare import Answer
from agentcache.vllm_plugin.lab.verify.sizes import ANSWER_TOKENS, BLOCK_SIZE, GARBAGE, MAX_LEN

STEP_TOKENS = 512
POOL_BLOCKS = 640  # far more than a pattern allocates: see `damage`


class Subject:
    """One in-process engine with AgentCache on. Prompts are token ids; answers are greedy."""

    def __init__(self, model: str, dtype: str, policy: str, mode: str, seed: int, attention: str = "default") -> None:
        from vllm import EngineArgs, LLMEngine

        self.engine = LLMEngine.from_engine_args(
            EngineArgs(
                model,
                dtype=dtype,
                seed=seed,
                max_model_len=MAX_LEN,
                block_size=BLOCK_SIZE,
                num_gpu_blocks_override=POOL_BLOCKS,
                max_num_batched_tokens=STEP_TOKENS,
                max_num_seqs=8,
                enforce_eager=True,
                use_tqdm_on_load=False,
                scheduler_cls="agentcache.vllm_plugin.scheduler.AgentCacheScheduler",
                worker_cls="agentcache.vllm_plugin.cpu_worker.AgentCacheCPUWorker",
                additional_config={"agentcache": {"policy": policy, "mode": mode}},
                **({"attention_backend": "CUSTOM"} if attention == "triton" else {}),
            )
        )
        self.view = EngineView(self.engine)
        self.view.listen(self._hear)
        self.prompt_tokens = self.cached_tokens = self.after_hole = self.holes = 0
        self.answer_tokens = self.fill_tokens = ANSWER_TOKENS
        self._asked = 0
        self._counting = True

    def _hear(self, event: Event, now: float) -> None:
        if self._counting and isinstance(event, TurnScheduled):
            self.prompt_tokens += event.tokens
            self.cached_tokens += event.cached
            self.after_hole += event.after_hole
            self.holes += event.holes

    def ask(self, prompts: Sequence[list[int]], tokens: int | None = None) -> list[Answer]:
        """Run prompts together; answers in their order, of `tokens` (default: `answer_tokens`)."""
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=0.0, max_tokens=tokens or self.answer_tokens, ignore_eos=True, logprobs=2, detokenize=False
        )
        answers: dict[str, Answer] = {}
        names = []
        for prompt in prompts:
            self._asked += 1
            names.append(f"q{self._asked}")
            self.engine.add_request(names[-1], {"prompt_token_ids": prompt}, params)
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                if output.finished:
                    answers[output.request_id] = Answer.of(output.outputs[0])
        return [answers[name] for name in names]

    def fill(self, prompts: Sequence[list[int]]) -> None:
        """Have prompts resident; what that takes is not counted."""
        self._counting = False
        self.ask(prompts, self.fill_tokens)
        self._counting = True

    def cold(self, prompt: list[int]) -> Answer:
        """The answer of an engine that remembers nothing."""
        self.engine.reset_prefix_cache()
        self._counting = False
        (answer,) = self.ask([prompt])
        self._counting = True
        return answer

    def damage(self, rng: random.Random, chunk_blocks: int = 1) -> None:
        """Evict a random set of cached blocks, in runs of `chunk_blocks` positions, and poison their memory with NaN.

        Free blocks that held nothing before are filled with garbage instead, and are the ones allocated next: vLLM's
        CPU kernel multiplies the unwritten slots of a partly filled block by zero, which NaN would survive.
        """
        held = set(self.view.cached_block_ids())
        self.view.poison((block.block_id for block in self.view.pool.blocks[1:] if block.block_id not in held), GARBAGE)
        share = rng.choice((0.1, 0.3, 0.5, 0.7, 0.9))
        clustered = rng.random() < 0.5
        doomed: set[int] = set()
        kept: dict[int, bool] = {}
        for block in self.view.pool.blocks:
            if block.block_hash is None or block.ref_cnt:
                continue
            position = (block.block_hash_num_tokens // BLOCK_SIZE - 1) // chunk_blocks
            # Clustered: the same positions of all contexts go, as when heads are evicted.
            fate = kept.setdefault(position, rng.random() < share) if clustered or chunk_blocks > 1 else None
            if fate if fate is not None else rng.random() < share:
                doomed.add(block.block_id)
        self.view.evict(doomed)
        self.view.poison(doomed)

    def limit_step(self, tokens: int) -> None:
        """Let a step compute at most this many tokens from now on."""
        self.view.scheduler.max_num_scheduled_tokens = tokens
