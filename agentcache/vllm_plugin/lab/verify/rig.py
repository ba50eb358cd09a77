"""The rig: a program under way in one scheduler, on either device, its references recounted after every operation."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from typing import Any

from agentcache.errors import CheckFailed, InputError
from agentcache.model import TurnScheduled
from agentcache.vllm_plugin.lab.verify.programs import Abort, Budget, Drain, Evict, Op, Preempt, Reset, Step, Submit


class Wrong(CheckFailed):
    """The scheduler would have had a device compute from the wrong K/V, or breaks another promise."""


class Rig(ABC):
    """Carries out operations; what the device adds is the subclass's. `met` counts what the program went through.

    `most_steps`: of one drain, after which it is given up.
    """

    most_steps: int

    def __init__(self, scheduler: Any) -> None:
        self.scheduler, self.met = scheduler, Counter[str]()
        self.manager = scheduler.kv_cache_manager
        self.pool = self.manager.block_pool

    def run(self, ops: Iterable[Op]) -> None:
        """Raises `CheckFailed` where something is not as it must be."""
        for op in ops:
            self.do(op)
        self.drain()

    def do(self, op: Op) -> None:
        """Carry out one operation, and recount."""
        self.perform(op)
        self.recount()

    def perform(self, op: Op) -> None:
        """Raises `InputError` for an operation of which the device is not capable."""
        match op:
            case Submit():
                self.submit(op)
            case Step(count):
                for _ in range(count):
                    self.step()
            case Drain():
                self.drain()
            case Evict():
                self.evict(op)
            case Abort(number):
                if (request := self.choose(self.live(), number)) is not None:
                    self.abort(request)
            case Preempt(number):
                if (request := self.choose(self.scheduler.running, number)) is not None:
                    self.preempt(request)
            case Reset(running):
                self.reset(running)
            case Budget(tokens, each):
                self.scheduler.max_num_scheduled_tokens = tokens
                if each is not None:
                    self.scheduler.scheduler_config.long_prefill_token_threshold = each
            case _:
                raise InputError(f"{op} takes a device that computes, and this one does not")

    def drain(self) -> None:
        for _ in range(self.most_steps):
            if self.is_idle():
                return
            self.step()
        raise Wrong(f"after {self.most_steps} steps {len(self.live())} requests have not ended")

    def live(self) -> list[Any]:
        """Requests that have not ended, in the order in which they came."""
        return list(self.scheduler.requests.values())

    def choose(self, requests: list[Any], number: int) -> Any:
        """The n-th of them, modulo their number; None if there is none."""
        return requests[number % len(requests)] if requests else None

    def preempt(self, request: Any) -> None:
        from agentcache.vllm_plugin.compat import preempt  # loads vLLM, which must find Triton's kernels interpreted

        preempt(self.scheduler, request)

    def scheduled(self, event: TurnScheduled) -> None:
        """A request gets its first step."""
        self.met["holes"] += event.holes > 0
        self.met["several holes"] += event.holes > 1

    def holders(self) -> dict[int, set[str]]:
        """The requests that have each block, by the tables that are there."""
        holders: dict[int, set[str]] = {}
        for group in self.manager.coordinator.single_type_managers:
            if hasattr(group, "references"):
                found = list(group.references())
            else:
                found = [(name, block) for name, table in group.req_to_blocks.items() for block in table]
            for name, block in found:
                if not block.is_null:
                    holders.setdefault(block.block_id, set()).add(name)
        return holders

    def check_references(self, holders: dict[int, set[str]], ballast: Iterable[int] = ()) -> None:
        """Each block counts its holders, and who else keeps it from being used (`ballast`, as often as it does)."""
        others = Counter(ballast)
        for block in self.pool.blocks[1:]:
            names = holders.get(block.block_id, ())
            if block.ref_cnt != len(names) + others[block.block_id]:
                raise Wrong(f"block {block.block_id} counts {block.ref_cnt} references, requests hold {names}")

    # Of the device

    @abstractmethod
    def submit(self, op: Submit) -> None: ...

    @abstractmethod
    def step(self) -> None:
        """One step, its answers checked and its references recounted."""

    @abstractmethod
    def is_idle(self) -> bool:
        """Whether nothing runs; raises `Wrong` where something is left over then."""

    @abstractmethod
    def evict(self, op: Evict) -> None: ...

    @abstractmethod
    def abort(self, request: Any) -> None: ...

    @abstractmethod
    def reset(self, running: bool) -> None: ...

    @abstractmethod
    def recount(self) -> None:
        """All books of host, pool and device."""
