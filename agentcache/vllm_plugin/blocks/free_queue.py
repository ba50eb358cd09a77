"""The free queue of vLLM's block pool, ordered by the residency instead of by recency."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from agentcache.errors import CheckFailed
from agentcache.model import Block
from agentcache.vllm_plugin.blocks.reach import Reach
from agentcache.vllm_plugin.compat import BlockHashWithGroupId, KVCacheBlock, get_block_hash, get_group_id
from agentcache.vllm_plugin.host import Host


class ResidencyFreeQueue:
    """Stands where `FreeKVCacheBlockQueue` stood: first go blocks without a key, then dead ones, then the victims.

    Blocks that hold nothing reusable keep vLLM's own order (last freed, first used). *Dead* is what lies behind a
    window or is a state between two turns: under its key, but no chain ends or parts within its reach. Every other free
    block is evictable in the residency, under one `Block` object a physical block, made once.

    `block_size`: tokens of a key; `reaches`: of each KV group's blocks.
    """

    def __init__(
        self,
        host: Host,
        blocks: Sequence[KVCacheBlock],
        free: Iterable[KVCacheBlock],
        block_size: int,
        reaches: Sequence[Reach] = (None,),
    ) -> None:
        self._host = host
        self._residency = host.residency
        self._blocks = blocks
        self._block_size = block_size
        self._faces = [Block(block.block_id, None, 0) for block in blocks]
        self._named: list[BlockHashWithGroupId | None] = [None] * len(blocks)  # what each face was named after
        self._keyless: OrderedDict[int, KVCacheBlock] = OrderedDict()
        self._dead: OrderedDict[int, KVCacheBlock] = OrderedDict()
        self._reaches = reaches if any(reach is not None for reach in reaches) else ()
        self.num_free_blocks = 0  # asked for every request of every step
        self.returns = 0  # how often blocks came back, or lost what they held
        for block in free:
            self.append(block)

    # Giving back

    def append(self, block: KVCacheBlock) -> None:
        self.append_n([block])

    def append_n(self, blocks: Sequence[KVCacheBlock]) -> None:
        """Blocks whose last reference has gone, in vLLM's order: a request's tail first."""
        evictable = []
        self.num_free_blocks += len(blocks)
        self.returns += 1
        faces, named = self._faces, self._named
        for block in blocks:
            block_id, name = block.block_id, block.block_hash
            if name is None:
                self._keyless[block_id] = block
                continue
            face = faces[block_id]
            if named[block_id] is not name:  # else it came back as it went
                named[block_id] = name
                face.key = get_block_hash(name)
                face.index = (block.block_hash_num_tokens or self._block_size) // self._block_size - 1
            if self._reaches and self._is_dead(face, self._reaches[get_group_id(name)]):
                self._dead[block_id] = block
                continue
            evictable.append(face)
        if evictable:
            self._residency.release(evictable, self._host.now)

    def _is_dead(self, face: Block, reach: Reach) -> bool:
        """Whether no chain ends or parts within reach of the block, as of now; what nobody has is behind its turn."""
        return (
            reach is not None and not face.index < self._residency.contexts.owners(face.key).end <= face.index + reach
        )

    def prepend_n(self, blocks: Sequence[KVCacheBlock]) -> None:
        """Blocks to use first: vLLM gives back here what has no key."""
        self.num_free_blocks += len(blocks)
        self.returns += 1
        for block in reversed(blocks):
            self._keyless[block.block_id] = block
            self._keyless.move_to_end(block.block_id, last=False)

    # Taking out

    def popleft(self) -> KVCacheBlock:
        return self.popleft_n(1)[0]

    def popleft_n(self, n: int) -> list[KVCacheBlock]:
        """Take exactly `n` blocks to overwrite; the pool has counted that there are so many."""
        self.num_free_blocks -= n
        keyless = self._keyless
        taken = [keyless.popitem(last=False)[1] for _ in range(min(n, len(keyless)))]
        if self._dead and len(taken) < n:
            dead = [self._dead.popitem(last=False)[1] for _ in range(min(n - len(taken), len(self._dead)))]
            self._bury(dead, "capacity")
            taken += dead
        if len(taken) < n:
            for victim in self._host.victims(n - len(taken)):
                self._named[victim.id] = None  # its key is about to go
                taken.append(self._blocks[victim.id])
        return taken

    def remove(self, block: KVCacheBlock) -> None:
        self.remove_n([block])

    def remove_n(self, blocks: Sequence[KVCacheBlock]) -> None:
        """Blocks that a request uses again."""
        used = []
        self.num_free_blocks -= len(blocks)
        for block in blocks:
            if block.block_id in self._keyless:
                del self._keyless[block.block_id]
            elif block.block_id in self._dead:  # chains part where they did not
                del self._dead[block.block_id]
            else:
                used.append(self._faces[block.block_id])
        if used:
            self._residency.acquire(used, self._host.now)

    def face(self, block: KVCacheBlock) -> Block:
        """The residency's own name for a physical block that has been free under its present key."""
        face: Block = self._faces[block.block_id]
        return face

    def lost_key(self, block: KVCacheBlock) -> None:
        """A free block's content was invalidated: nothing to keep any more."""
        face = self._faces[block.block_id]
        if self._named[block.block_id] is None:
            return
        if self._dead.pop(block.block_id, None):
            self._bury([block], self._host.dropping)
        elif face in self._residency:
            self._host.dropped([face])
        else:
            return
        self.returns += 1
        self._keyless[block.block_id] = block

    def _bury(self, dead: Sequence[KVCacheBlock], reason: str) -> None:
        """Blocks that have been dead are gone."""
        for block in dead:
            self._named[block.block_id] = None
        self._host.buried([self._faces[block.block_id].key for block in dead], reason)

    # Looking

    @property
    def num_useless_blocks(self) -> int:
        """Free blocks that hold nothing reusable, or nothing that will be."""
        return len(self._keyless) + len(self._dead)

    def get_all_free_blocks(self) -> list[KVCacheBlock]:
        """All free blocks; those of the residency in no particular order: a policy only knows its next victims."""
        evictable = [face.id for face in self._faces if face in self._residency]
        return [*self._keyless.values(), *self._dead.values(), *(self._blocks[block_id] for block_id in evictable)]

    def check(self) -> None:
        """Recount against the pool's reference counts; raise `CheckFailed` where they differ."""
        self._residency.check()
        if self.num_free_blocks != self.num_useless_blocks + len(self._residency):
            raise CheckFailed(
                f"{self.num_free_blocks} blocks count as free, {len(self._keyless)} are keyless, {len(self._dead)} are "
                f"dead and {len(self._residency)} evictable"
            )
        for block, face in zip(self._blocks, self._faces, strict=True):
            evictable, keyless = face in self._residency, block.block_id in self._keyless
            dead = block.block_id in self._dead
            free = block.ref_cnt == 0 and not block.is_null
            if evictable + keyless + dead != free or (evictable + dead and block.block_hash is None):
                raise CheckFailed(
                    f"block {block.block_id}: references {block.ref_cnt}, key {block.block_hash!r}, but evictable is "
                    f"{evictable}, keyless is {keyless} and dead is {dead}"
                )
