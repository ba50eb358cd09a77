"""A router's view of one engine: subscribes to its KV events and keeps what they say is cached."""

import tempfile
from collections import Counter
from typing import Any

import msgspec
import zmq


def events_config() -> dict[str, Any]:
    """vLLM's configuration of a publisher on this machine."""
    endpoint = f"ipc://{tempfile.mkdtemp()}/events"  # a port that is free now may be taken when the engine binds it
    return {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": endpoint, "topic": ""}


class Subscriber:
    """Counts copies of each block by its hash. `faults` lists what no consumer could make sense of."""

    def __init__(self, publisher: Any, endpoint: str) -> None:
        from vllm.distributed.kv_events import KVEventBatch

        self._decoder = msgspec.msgpack.Decoder(KVEventBatch)
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.connect(endpoint)
        self._publisher = publisher
        while not self._socket.poll(10):  # a publisher drops what it sends before it knows its subscribers
            publisher.publish(KVEventBatch(ts=0.0, events=[]))
        self._next = int.from_bytes(self._socket.recv_multipart()[1], "big") + 1
        self.cached: Counter[Any] = Counter()
        self.content: dict[Any, tuple[Any, tuple[int, ...]]] = {}  # hash -> its parent's and its tokens
        self.faults: list[str] = []
        self.events: Counter[str] = Counter()
        self.mid_chain = 0

    def take(self) -> None:
        """Work in everything that has been published."""
        self._publisher._event_queue.join()
        last, _ = self._publisher._buffer[-1]
        while self._next <= last:
            _, sequence, payload = self._socket.recv_multipart()
            if (number := int.from_bytes(sequence, "big")) != self._next:
                self.faults.append(f"batch {number} out of turn")
            self._next = number + 1
            for event in self._decoder.decode(payload).events:
                self.events[type(event).__name__] += 1
                getattr(self, type(event).__name__)(event)

    def BlockStored(self, event: Any) -> None:
        parent, size = event.parent_block_hash, event.block_size
        if parent is not None and not self.cached[parent]:
            self.faults.append(f"stored below {parent}, which is not cached")
        self.mid_chain += parent is not None
        if len(event.token_ids) != size * len(event.block_hashes):
            self.faults.append(f"{len(event.token_ids)} tokens in {len(event.block_hashes)} blocks of {size}")
        for number, key in enumerate(event.block_hashes):
            content = parent, tuple(event.token_ids[number * size : (number + 1) * size])
            if self.content.setdefault(key, content) != content:
                self.faults.append(f"{key} has two contents")
            self.cached[key] += 1
            parent = key

    def BlockRemoved(self, event: Any) -> None:
        for key in event.block_hashes:
            if not self.cached[key]:
                self.faults.append(f"{key} removed, which is not cached")
            self.cached[key] -= 1

    def AllBlocksCleared(self, event: Any) -> None:
        self.cached.clear()

    def compare(self, pool: Any) -> dict[str, Any]:
        """The outcome: counts, faults, and copies that only one side knows of."""
        from vllm.v1.core.kv_cache_utils import get_block_hash, maybe_convert_block_hash

        there = Counter(
            maybe_convert_block_hash(get_block_hash(block.block_hash)) for block in pool.blocks if block.block_hash
        )
        return {
            "events": self.events,
            "mid_chain": self.mid_chain,
            "faults": self.faults[:5],
            "cached": there.total(),
            "unsaid": (there - self.cached).total(),
            "untrue": (+self.cached - there).total(),
        }
