"""A program over the device that keeps books: the real scheduler ahead of it, each write, key and answer checked."""

from collections import Counter, deque
from typing import Any

from agentcache.model import TurnScheduled
from agentcache.vllm_plugin import compat
from agentcache.vllm_plugin.copies.orders import ORDERS, REPORTS
from agentcache.vllm_plugin.lab.verify.books import bare, worlds
from agentcache.vllm_plugin.lab.verify.books.device import Device
from agentcache.vllm_plugin.lab.verify.books.text import Text
from agentcache.vllm_plugin.lab.verify.books.worlds import BLOCK_SIZE, InWorld, World
from agentcache.vllm_plugin.lab.verify.programs import Budget, Evict, Op, Submit
from agentcache.vllm_plugin.lab.verify.rig import Rig, Wrong
from agentcache.vllm_plugin.levels import Level

REQUIRED = (
    "preempted in the step it was scheduled in",
    "holes",
    "resets",
    "depth 2",
    "depth 3",
    "remembered not to fit",
    "reused at level order",
    "reused at level admit",
    "drafts accepted",
    "drafts rejected",
    "loaded",
)
OFTEN = 50
"""How often a run must have met each of these to be a proof."""


class BooksRun(Rig):
    """One scheduler of a world with its device, at most `depth` steps ahead of it.

    Raises `Wrong` where a read, a write, a key or a reference is not what it must be, and what the books raise.
    """

    most_steps = 3000  # drawn programs take a few dozen

    def __init__(self, world: World) -> None:
        super().__init__(bare.build(world))
        self.world = world
        self.host = getattr(self.scheduler, "agentcache", None)
        self._hashed = self.scheduler.hash_block_size
        self._texts: dict[str, Text] = {}
        self._requests: dict[str, Any] = {}
        self.porter = getattr(self.scheduler, "porter", None)
        self._device = Device(world.pool + 1, bare.groups(world), self._texts, world.host)
        self._flying: deque[tuple[Any, Any]] = deque()
        self._step = 0
        self._meaning: dict[bytes, list[int]] = {}  # of which prefixes a key says that its block is
        self._keyed_in: dict[int, int] = {}  # block -> the step that gave its key
        self._users: dict[int, set[str]] = {}  # who referenced each block before this step
        self._watch()

    def _watch(self) -> None:
        """Hear of keys, of blocks that are handed out and of preemptions."""
        insert, hand_out = self.pool._insert_block_hash, self.pool.get_new_blocks

        def inserted(key: Any, block: Any, *args: Any, **kwargs: Any) -> Any:
            self._keyed_in[block.block_id] = self._step
            return insert(key, block, *args, **kwargs)

        def handed_out(count: int) -> Any:
            blocks = hand_out(count)
            self._device.hand_out(block.block_id for block in blocks)
            return blocks

        self.pool._insert_block_hash, self.pool.get_new_blocks = inserted, handed_out
        compat.on_preempt(self.scheduler, self._preempting)
        compat.on_verified(self.scheduler, self._verified)
        if self.host:
            self.host.listeners.append(self._hear)

    def _preempting(self, request: Any, scheduled: bool) -> None:
        self.met["preemptions"] += 1
        self.met["preempted in the step it was scheduled in"] += scheduled
        self.met["preempted in a rebuild"] += request.request_id in getattr(self.manager, "runs", ())

    def _hear(self, event: Any, now: float) -> None:
        if isinstance(event, TurnScheduled):
            assert self.host  # which tells it
            self.scheduled(event)
            self.met[f"reused at level {self.host.level}"] += event.cached > 0
            self.met["loaded"] += event.loaded > 0
            self.met["loaded behind holes"] += event.loaded > 0 and event.holes > 0

    # Operations

    def perform(self, op: Op) -> None:
        if isinstance(op, Budget) and self.world.drafts:
            least = 1 + self.world.drafts  # vLLM pads a last token with drafts, or leaves it for a step with more room
            op = Budget(max(op.tokens, least), op.each and max(op.each, least))
        super().perform(op)

    def submit(self, op: Submit) -> None:
        name = str(len(self._texts))
        tokens = bare.contexts(worlds.CONTEXTS)[op.context]
        match op.shape:
            case "cut":
                tokens = tokens[: len(tokens) // 2 + 1]
            case "aligned":
                tokens = tokens[: max(len(tokens) // BLOCK_SIZE, 1) * BLOCK_SIZE]
            case "follow-up":
                tokens = [*Text(tokens, op.salt).tokens(0, len(tokens) + op.answer), 7, 8, 9]
        self._texts[name] = Text(tokens, op.salt)
        job = f"stream {op.context % 3}" if op.context % 2 else None
        self._requests[name] = request = bare.request(name, tokens, op.answer, op.salt, op.urgency, job, self._hashed)
        self.scheduler.add_request(request)

    def _prefixes_of(self, text: Text, index: int) -> list[int]:
        return text.prefixes(index * self._hashed, (index + 1) * self._hashed)

    def evict(self, op: Evict) -> None:
        free = [block.block_id for block in self.pool.blocks if block.block_hash is not None and not block.ref_cnt]
        doomed = {block_id for block_id in free if (block_id * 7919 + op.seed * 104729) % 97 < 97 * op.share}
        self.met["evictions"] += len(doomed)
        self.pool.evict_blocks(doomed)

    def abort(self, request: Any) -> None:
        self.met["aborts"] += 1
        self.scheduler.finish_requests(request.request_id, compat.RequestStatus.FINISHED_ABORTED)

    def reset(self, running: bool) -> None:
        if self.scheduler.reset_prefix_cache(reset_running_requests=running):
            self.met["resets"] += 1
            self._device.forget()

    # Steps

    def step(self) -> None:
        """As vLLM's engine does: schedule as far ahead as may be, then take the oldest output in."""
        while len(self._flying) < self.world.depth and self._schedule():
            pass
        if self._flying:
            output, result = self._flying.popleft()
            self.scheduler.update_from_output(output, result)
            if self.world.drafts:
                self._draft(result)
            self._check_answers()
        self.recount()

    def _schedule(self) -> bool:
        """Make a step and hand it to the device; whether there was anything to compute."""
        self._step += 1
        self._users = self.holders()
        output = self.scheduler.schedule()
        result, writers = self._device.execute(output)
        self._check_writes(writers)
        told = getattr(output, ORDERS, None) or getattr(result, REPORTS, None)
        if not output.total_num_scheduled_tokens and self._flying and not told:
            return False
        self._flying.append((output, result))
        self.met[f"depth {len(self._flying)}"] += output.total_num_scheduled_tokens > 0
        self.met["several requests a step"] += len(output.num_scheduled_tokens) > 1
        return bool(output.total_num_scheduled_tokens)

    def _draft(self, result: Any) -> None:
        """As vLLM's engine does where no step is ahead: whoever was given a token gets drafts behind it."""
        sampled = zip(result.req_ids, result.sampled_token_ids, strict=True)
        names = [name for name, tokens in sampled if tokens and name in self.scheduler.requests]
        drafts = [self._device.draft(name, self.world.drafts) for name in names]
        self.scheduler.update_draft_token_ids(compat.DraftTokenIds(names, drafts))

    def _verified(self, drafted: int, accepted: int) -> None:
        self.met["drafts accepted"] += accepted > 0
        self.met["drafts rejected"] += accepted < drafted
        self.met["drafts beside holes"] += bool(getattr(self.manager, "runs", ()))

    # What must hold

    def _check_writes(self, writers: dict[int, set[str]]) -> None:
        """A block is written by one request, before others have it and in the step at the latest that gives its key."""
        now = self.holders()
        filling = set(self.porter.filling()) if self.porter else set()
        if filled := filling & writers.keys():
            raise Wrong(f"blocks {filled} are written to while copies come up into them")
        for block_id, names in writers.items():
            (name,) = names if len(names) == 1 else (None,)
            if name is None:
                raise Wrong(f"block {block_id} is written by {sorted(names)} in one step")
            if others := (self._users.get(block_id, set()) & now.get(block_id, set())) - names:
                raise Wrong(f"{name} writes block {block_id}, which {sorted(others)} had before")
            keyed = self.pool.blocks[block_id].block_hash is not None
            if keyed and self._keyed_in[block_id] != self._step:
                raise Wrong(f"{name} writes block {block_id}, whose key is of an earlier step")

    def recount(self) -> None:
        """The books of host and pool, each reference, and each key against what its block holds."""
        self.check_references(self.holders(), self.porter.holding().elements() if self.porter else ())
        if self.porter:
            self.porter.check()
        for name, request in self._requests.items():
            self._learn(request, self._texts[name])
        for block in self.pool.blocks[1:]:
            if block.block_hash is None:
                continue
            prefixes = self._meaning[compat.get_block_hash(block.block_hash)]
            if not self._device.holds(block.block_id, prefixes, compat.get_group_id(block.block_hash)):
                raise Wrong(f"block {block.block_id} bears a key, and does not hold what it says")
        if self.host and self.host.level >= Level.ORDER:
            self.pool.free_block_queue.check()
        if self.host and self.host.level is Level.HOLES:
            self._check_blocked()

    def _check_blocked(self) -> None:
        """Whoever is remembered not to fit must not fit, by a look at what is there now."""
        blocked = self.manager.blocked
        if not (blocked and self.manager.still_blocked(blocked.request) and self.world.whole):
            return
        self.met["remembered not to fit"] += 1
        request, get = blocked.request, self.pool.cached_block_hash_to_block.get_one_block
        here = [get(compat.make_block_hash_with_group_id(key, 0)) for key in request.block_hashes]
        del here[(request.num_tokens - 1) // BLOCK_SIZE :]
        if not self.manager.reuse_after_holes:
            del here[next((index for index, block in enumerate(here) if block is None), len(here)) :]
        resident = [block for block in here if block is not None]
        if self.world.segments < 8:
            return  # not all that is resident is taken
        need = -(-request.num_tokens // BLOCK_SIZE) - sum(block.ref_cnt > 0 for block in resident)
        if need <= (free := self.pool.get_num_free_blocks()):
            raise Wrong(f"{request.request_id} is remembered not to fit; it needs {need} blocks, {free} are free")

    def _check_answers(self) -> None:
        for name in [name for name, request in self._requests.items() if request.is_finished()]:
            request, text = self._requests.pop(name), self._texts[name]
            self._learn(request, text)
            length = text.prompt_tokens + request.num_output_tokens
            if list(request.all_token_ids) != text.tokens(0, length):
                raise Wrong(f"{name} is answered {list(request.output_token_ids)}")
            self.met["answers"] += 1

    def _learn(self, request: Any, text: Text) -> None:
        for index, key in enumerate(request.block_hashes):
            if key not in self._meaning:
                self._meaning[key] = self._prefixes_of(text, index)

    def is_idle(self) -> bool:
        if self.live() or self._flying or (self.porter and self.porter.is_busy):
            return False
        left = {
            "runs": getattr(self.manager, "runs", {}),
            **{
                f"{name} of group {number}": getattr(group, name, {})
                for number, group in enumerate(self.manager.coordinator.single_type_managers)
                for name in ("found", "held", "req_to_blocks", "num_cached_block")
            },
        }
        if full := {name: list(kept) for name, kept in left.items() if kept}:
            raise Wrong(f"nothing runs, and these are not empty: {full}")
        if (free := self.pool.get_num_free_blocks()) != self.world.pool:
            raise Wrong(f"nothing runs, and {free} of {self.world.pool} blocks are free")
        return True


def run(program: InWorld) -> Counter[str]:
    """Run a program in a new scheduler; returns what it met. Raises `CheckFailed`, of which `Wrong` is one."""
    rig = BooksRun(program.world)
    rig.run(program.ops)
    return rig.met
