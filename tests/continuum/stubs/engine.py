"""The least of an engine that a scheduler of either code base stands on: a pool in blocks, and requests."""

from dataclasses import dataclass, field
from enum import Enum, auto
from types import SimpleNamespace
from typing import Any

BLOCK = 16


class Status(Enum):
    WAITING = auto()
    RUNNING = auto()
    PREEMPTED = auto()
    FINISHED_STOPPED = auto()
    FINISHED_LENGTH_CAPPED = auto()
    FINISHED_ABORTED = auto()
    FINISHED_ERROR = auto()


@dataclass(eq=False)
class Request:
    """`prompt_token_ids` and what was sampled; `extra_args` as `vllm_xargs` gave them."""

    request_id: str
    prompt_token_ids: list[int]
    extra_args: dict[str, Any] = field(default_factory=dict)
    arrival_time: float = 0.0
    output_token_ids: list[int] = field(default_factory=list)
    status: Status = Status.WAITING
    job_id: str | None = None
    last_func_call: str | None = None
    this_func_call: str | None = None
    is_last_step: bool | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_token_ids) + len(self.output_token_ids)

    def is_finished(self) -> bool:
        return self.status.name.startswith("FINISHED")


class Pool:
    """Blocks by request; an allocation fits, or is None and changes nothing."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.held: dict[str, int] = {}

    @property
    def free_blocks(self) -> int:
        return self.blocks - sum(self.held.values())

    def allocate_slots(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        need = -(-(request.num_tokens + 1) // BLOCK) - self.held.get(request.request_id, 0)
        if need > self.free_blocks:
            return None
        self.held[request.request_id] = self.held.get(request.request_id, 0) + max(need, 0)
        return [need]

    def free(self, request: Request) -> None:
        assert request.request_id in self.held, "freed twice"
        del self.held[request.request_id]


class Base:
    """What stock schedulers have."""

    def __init__(self, blocks: int = 32, **kwargs: Any) -> None:
        assert not kwargs, f"unknown {sorted(kwargs)}"
        self.cache_config = SimpleNamespace(num_gpu_blocks=blocks, block_size=BLOCK)
        self.kv_cache_manager: Any = Pool(blocks)
        self.requests: dict[str, Request] = {}
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.connector: Any = None
        self.preemptions = 0

    def add_request(self, request: Request) -> None:
        self.requests[request.request_id] = request
        self.waiting.append(request)

    def finish(self, request: Request, status: Status = Status.FINISHED_STOPPED) -> None:
        request.status = status
        for queue in (self.waiting, self.running):
            if request in queue:
                queue.remove(request)
        self._free_request(request)

    def _free_request(self, request: Request) -> None:
        self._free_blocks(request)

    def _free_blocks(self, request: Request) -> None:
        if request.request_id in self.kv_cache_manager.held:
            self.kv_cache_manager.free(request)
        del self.requests[request.request_id]

    def _preempt(self, request: Request) -> None:
        self.preemptions += 1
        self.kv_cache_manager.free(request)
        request.status = Status.PREEMPTED
        self.waiting.insert(0, request)
