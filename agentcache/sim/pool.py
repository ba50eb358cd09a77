"""A pool of blocks without memory behind it: reference counts and keys as vLLM's block pool keeps them."""

from collections.abc import Iterable, Sequence

from agentcache.errors import CheckFailed
from agentcache.model import Block, BlocksEvicted, BlocksStored, Key
from agentcache.residency import Residency


class Pool:
    """Holds `capacity_blocks` blocks of a residency: empty, evictable in the residency, or referenced by turns.

    As in vLLM, a block computed although its key is resident is one more copy of it; a look-up finds the oldest copy.
    """

    def __init__(self, residency: Residency) -> None:
        self.residency = residency
        self.capacity_blocks = residency.capacity_blocks
        self._empty = [Block(number, None, 0) for number in reversed(range(self.capacity_blocks))]
        self._copies: dict[Key, list[Block]] = {}
        self._references: dict[Block, int] = {}

    @property
    def free_blocks(self) -> int:
        """Blocks that nothing references."""
        return len(self._empty) + len(self.residency)

    def find(self, keys: Iterable[Key]) -> list[Block | None]:
        """The resident block of each key, or None."""
        return [copies[0] if (copies := self._copies.get(key)) else None for key in keys]

    def acquire(self, blocks: Sequence[Block], now: float) -> None:
        """Reference resident blocks once more."""
        references = self._references
        self.residency.acquire([block for block in blocks if block not in references], now)
        for block in blocks:
            references[block] = references.get(block, 0) + 1

    def store(self, places: Sequence[tuple[int, Key]], now: float) -> list[Block]:
        """Put (index, key) pairs into new referenced blocks, evicting as needed; as many as fit, from the first on."""
        places = places[: self.free_blocks]
        if (need := len(places) - len(self._empty)) > 0:
            self._evict(need, now)
        blocks = []
        for index, key in places:
            block = self._empty.pop()
            block.index, block.key = index, key
            self._copies.setdefault(key, []).append(block)
            self._references[block] = 1
            blocks.append(block)
        if blocks:
            self.residency.observe(BlocksStored(tuple(block.key for block in blocks)), now)
        return blocks

    def release(self, blocks: Iterable[Block], now: float) -> None:
        """Give references back; blocks whose last one goes become evictable, in this order."""
        references = self._references
        last = []
        for block in blocks:
            if left := references[block] - 1:
                references[block] = left
            else:
                del references[block]
                last.append(block)
        self.residency.release(last, now)
        if self.residency.tier and self.residency.tier.through:
            self._copy_through(last, now)

    def _copy_through(self, blocks: Sequence[Block], now: float) -> None:
        """Copy down what a turn gives back, tail first; a copy is whole at once. Room goes to the head first."""
        tier = self.residency.tier
        assert tier
        new = tier.write([(block.index, block.key) for block in reversed(blocks)], now)
        tier.written(new[::-1], now)
        tier.use([block.key for block in blocks], now)

    def idle(self, blocks: Iterable[Block]) -> int:
        """How many of these resident blocks nothing references."""
        return sum(block not in self._references for block in blocks)

    def drop(self, blocks: Iterable[Block]) -> None:
        """Give references back to blocks whose content is of no use: with the last one they are empty."""
        for block in blocks:
            self._references[block] -= 1
            if not self._references[block]:
                del self._references[block]
                self._discard(block)
                self._empty.append(block)

    def _discard(self, block: Block) -> None:
        copies = self._copies[block.key]
        copies.remove(block)
        if not copies:
            del self._copies[block.key]

    def _evict(self, need: int, now: float) -> None:
        victims = self.residency.victims(need, now)
        assert victims is not None, f"{need} victims asked of {len(self.residency)} evictable blocks"
        for block in victims:
            self._discard(block)
        if (tier := self.residency.tier) and not tier.through:
            tier.written([place for _, place in reversed(tier.sink(victims, now))], now)
        self._empty.extend(reversed(victims))
        self.residency.observe(BlocksEvicted(tuple(block.key for block in victims)), now)

    def check(self) -> None:
        """Recount; raise `CheckFailed` with the equation that does not hold."""
        self.residency.check()
        if self.free_blocks + len(self._references) != self.capacity_blocks:
            raise CheckFailed(
                f"{len(self._empty)} empty + {len(self.residency)} evictable + {len(self._references)} referenced "
                f"blocks != {self.capacity_blocks}"
            )
        for key, copies in self._copies.items():
            for block in copies:
                if block.key != key or (block in self._references) == (block in self.residency):
                    raise CheckFailed(f"{block} under key {key!r}: neither or both of referenced and evictable")
        filed = sum(len(copies) for copies in self._copies.values())
        if filed != self.capacity_blocks - len(self._empty):
            raise CheckFailed(f"{filed} blocks have a key, {self.capacity_blocks - len(self._empty)} are not empty")
