"""Carries out what the residency service decides, between two steps, on the scheduler's own thread."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from agentcache.api.messages import (
    Command,
    Done,
    Evict,
    Outcome,
    Parameters,
    Pause,
    Release,
    Retain,
    ToolBegan,
    ToolEnded,
)
from agentcache.model import Block, Context, JobFinished, Key, Standing, ToolFinished, ToolStarted
from agentcache.vllm_plugin.compat import KVCacheBlock, make_block_hash_with_group_id
from agentcache.vllm_plugin.host import Host
from agentcache.vllm_plugin.link.leases import ServiceLeases


class Orders:
    """A claim that no longer fits what is here does nothing, and the answer says so. Output never depends on any.

    `groups`: the KV groups, first the one whose blocks are counted: one for each key of a chain.
    """

    def __init__(self, host: Host, pool: Any, block_size: int, groups: Sequence[int] = (0,)) -> None:
        self._host, self._pool = host, pool
        self._block_size, self._groups = block_size, groups

    def carry_out(self, command: Command) -> Done:
        match command:
            case Evict():
                return self._evict(command)
            case Retain():
                return self._retain(command)
            case Release(id, job):
                if not (family := self._contexts(job)):
                    return Done(id, "missing", detail="unknown job")
                self._end_lease(job)
                self._host.observe(JobFinished(job))
                return Done(id, "accepted", self._idle_tokens(family))
            case ToolBegan(id, job, tool, expected_s):
                self._host.observe(ToolStarted(job, tool, expected_s))
                return Done(id, "accepted" if self._contexts(job) else "missing")
            case ToolEnded(id, job, tool):
                self._host.observe(ToolFinished(job, tool))
                return Done(id, "accepted" if self._contexts(job) else "missing")

    def learn(self, parameters: Parameters) -> None:
        """Take in pauses that other engines saw, as if they had ended here and now."""
        survival, now = self._host.residency.survival, self._host.now
        for pause in parameters.pauses:
            context = _paused(pause)
            survival.paused(context, now - pause.seconds)
            survival.returned(context, now)

    def _evict(self, command: Evict) -> Done:
        context = self._host.residency.contexts.get(command.context)
        if context is None:
            return Done(command.id, "missing", detail="unknown context")
        if context.turns:
            return Done(command.id, "rejected", detail="a turn of it is open")
        first, last = command.start // self._block_size, -(-command.end // self._block_size)
        keys = context.chain[first:last]
        found = list(self._resident(keys))
        ours = self._idle(found, context)
        beside = [block for group in self._groups[1:] for block in self._idle(self._resident(keys, group), context)]
        self._host.dropping = "release"
        try:
            self._pool.evict_blocks({block.block_id for block in (*ours, *beside)})
        finally:
            self._host.dropping = "reset"
        if not found:
            return Done(command.id, "missing", detail="nothing of it is resident")
        outcome: Outcome = "accepted" if len(ours) == len(found) else "clipped"
        return Done(command.id, outcome, len(ours) * self._block_size)

    def _idle(self, found: Iterable[tuple[Key, KVCacheBlock]], context: Context) -> list[KVCacheBlock]:
        return [block for key, block in found if not block.ref_cnt and self._is_alone(key, context)]

    def _is_alone(self, key: Key, context: Context) -> bool:
        """Whether nobody else who may return has this block: prompts share their beginnings."""
        owners = self._host.residency.contexts.owners(key)
        return all(owner is context or owner.standing is Standing.ENDED for owner in owners)

    def _retain(self, command: Retain) -> Done:
        family = self._contexts(command.job)
        if not family:
            return Done(command.id, "missing", detail="unknown job")
        policy = self._host.residency.policy
        if not isinstance(policy, ServiceLeases):
            return Done(command.id, "rejected", detail="no leases are kept here")
        until = self._host.now + command.ttl_s
        kept = policy.grant(command.job, until, command.keep_priority, self._evictable(family, self._groups))
        return Done(command.id, "accepted", kept * self._block_size)

    def _end_lease(self, job: str) -> None:
        policy = self._host.residency.policy
        if isinstance(policy, ServiceLeases):
            policy.end(job, self._host.now)

    def _contexts(self, job: str) -> list[Context]:
        return self._host.residency.contexts.of_job(job)

    def _resident(self, keys: Iterable[Key], group: int | None = None) -> Iterator[tuple[Key, KVCacheBlock]]:
        get = self._pool.cached_block_hash_to_block.get_one_block
        for key in keys:
            block = get(make_block_hash_with_group_id(key, self._groups[0] if group is None else group))
            if block is not None:
                yield key, block

    def _evictable(self, family: list[Context], groups: Sequence[int]) -> list[Block]:
        """Each once: branches of a job share their beginning."""
        faces, residency = self._pool.free_block_queue.face, self._host.residency
        found = [self._resident(context.chain, group) for group in groups for context in family]
        free = dict.fromkeys(faces(block) for one in found for _, block in one if not block.ref_cnt)
        return [face for face in free if face in residency]

    def _idle_tokens(self, family: list[Context]) -> int:
        return len(self._evictable(family, self._groups[:1])) * self._block_size


def _paused(pause: Pause) -> Context:
    return Context("", "", standing=Standing(pause.standing), tool=pause.tool, depth=pause.depth)
