"""The tier: blocks kept below the device, in host memory or behind it, under an order of their own."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import attrgetter

from agentcache.cost import CostModel
from agentcache.cost.loads import LoadPrice, Split, missing_runs, split_prefix, split_runs
from agentcache.errors import CheckFailed
from agentcache.model import NOBODY, Block, BlocksRestood, Event, Key, Owners, Standing
from agentcache.policy.base import Policy, Reuse, offer_all, touch_all
from agentcache.residency.standings import released, restood

_index = attrgetter("index")


class Tier:
    """`capacity_blocks` places for blocks, by keys that commit to all that makes two blocks differ.

    A place is empty, being written, or *held*: it is found, and may be loaded. What is held leaves in the order of
    any policy, but for what is being loaded (`pin`). The host copies; it says when a copy is done, or failed, and what
    is not known to be whole is not found. `id` of a block is the number of its place, from 0.

    `through`: the host copies blocks down as their turns end (`write`, `use`), so that many are in both levels. Else it
    copies what leaves the device (`sink`): what comes back to the device (`rise`) is *doubled*, which is worth nothing
    as long as it stays there, and leaves first, the longest doubled before. So the levels hold as much as both have.

    A residency writes owners and standing on what is held, and hears (`on_gone`) of what is held no longer. `now` is
    seconds on its clock.
    """

    def __init__(self, policy: Policy, capacity_blocks: int, through: bool = False) -> None:
        self.policy = policy
        self.through = through
        self.capacity_blocks = capacity_blocks
        self.owned: Mapping[Key, Owners] = {}  # the owners of every key that has some
        self.on_gone: Callable[[Sequence[Block], float], None] = lambda blocks, now: None
        self.written_blocks = 0
        self.loaded_blocks = 0
        self.evicted_blocks = 0
        self._empty = [Block(number, None, 0) for number in reversed(range(capacity_blocks))]
        self._writing: dict[Block, Key] = {}
        self._coming: set[Key] = set()  # of these
        self._held: dict[Key, Block] = {}
        self._doubled: dict[Block, None] = {}  # held, not in the policy's order
        self._pins: dict[Block, int] = {}  # loads that read a block
        self._releases = 0
        self._offer_all = offer_all(policy)
        self._touch_all = touch_all(policy)

    # Copies down

    def write(self, places: Iterable[tuple[int, Key]], now: float) -> list[Block]:
        """Places to copy these (index, key) pairs into, in their order, evicting as needed.

        None for what is below already or on its way; of the others as many as fit, from the first on. To be followed by
        `written` or `failed` for each block.
        """
        missing = {key: index for index, key in places if key not in self._held and key not in self._coming}
        chosen = list(missing.items())[: len(self._empty) + len(self._doubled) + len(self.policy)]
        self._make_room(len(chosen), now)
        blocks = []
        for key, index in chosen:
            block = self._empty.pop()
            block.key, block.index = key, index
            self._writing[block] = key
            blocks.append(block)
        self._coming.update(missing for missing, _ in chosen)
        return blocks

    def _make_room(self, need: int, now: float) -> None:
        if (short := need - len(self._empty)) <= 0:
            return
        if doubled := list(islice(self._doubled, short)):
            self._discard(doubled, now)
        if more := short - len(doubled):
            victims = self.policy.victims(more, frozenset(), now)
            assert victims is not None, f"{more} victims asked of {len(self.policy)} blocks"
            self.evicted_blocks += more
            self._discard(victims, now)

    def _discard(self, blocks: Sequence[Block], now: float) -> None:
        """These are held no longer; they are in the policy's order no more."""
        for block in blocks:
            del self._held[block.key]
            self._doubled.pop(block, None)
        self._empty.extend(reversed(blocks))
        self.on_gone(blocks, now)

    def written(self, blocks: Collection[Block], now: float) -> None:
        """These copies are whole: they are held from now on. They come in the order in which they leave, tail first."""
        for block in blocks:
            key = self._writing.pop(block)
            self._coming.discard(key)
            self._held[key] = block
        self.written_blocks += len(blocks)
        self._offer(blocks, now)

    def failed(self, blocks: Collection[Block]) -> None:
        """These copies will not come about."""
        for block in blocks:
            self._coming.discard(self._writing.pop(block))
        self._empty.extend(blocks)

    def sink(self, blocks: Iterable[Block], now: float) -> list[tuple[Block, Block]]:
        """These blocks of the device are about to be overwritten: returns (block, place) of those to be copied first.

        What a job that has ended leaves to nobody is not worth a copy. Each place is to be followed by `written` or
        `failed`.
        """
        leaving = {block.key: block for block in blocks}
        self.fall(leaving, now)
        heads_first = sorted((b for b in leaving.values() if b.standing is not Standing.ENDED), key=_index)
        return [(leaving[place.key], place) for place in self.write([(b.index, b.key) for b in heads_first], now)]

    def rise(self, keys: Iterable[Key], now: float) -> None:
        """The device has blocks with these keys now; nothing happens if the tier is written through."""
        if self.through:
            return
        doubled = [block for block in self._each(keys) if self._is_ordered(block)]
        self._touch_all(doubled, now)
        self._doubled.update(dict.fromkeys(doubled))

    def fall(self, keys: Iterable[Key], now: float) -> None:
        """The device has no blocks with these keys any more, and gives none to copy."""
        alone = [block for block in self._each(keys) if block in self._doubled]
        for block in alone:
            del self._doubled[block]
        self._offer(alone, now)

    def _each(self, keys: Iterable[Key]) -> Iterator[Block]:
        """What is held of these keys, each block once: two turns may have computed the same one."""
        return (block for key in dict.fromkeys(keys) if (block := self._held.get(key)))

    def _is_ordered(self, block: Block) -> bool:
        return block not in self._doubled and block not in self._pins

    # Use

    def find(self, keys: Iterable[Key]) -> list[Block | None]:
        """The block that is held of each key, or None."""
        return list(map(self._held.get, keys))

    def split(
        self,
        missing: Iterable[tuple[int, Key]],
        reuse: Reuse,
        cost: CostModel,
        price: LoadPrice,
        wait_s: float = 0.0,
        others: int = 0,
    ) -> Split:
        """Which of a turn's missing blocks, (index, key) pairs that ascend, to load, and which to compute.

        `reuse` is the host's, `wait_s` how long its link is busy, `others` the turns that wait for what this one
        computes. To be followed by `pin` of what is loaded.
        """
        runs = list(missing_runs((index, key in self._held) for index, key in missing))
        return (split_runs if reuse == "holes" else split_prefix)(runs, cost, price, wait_s, others)

    def use(self, keys: Iterable[Key], now: float) -> None:
        """A turn had these keys, in this order: what is held of them is as young as what was just written."""
        blocks = [block for block in self._each(keys) if self._is_ordered(block)]
        self._touch_all(blocks, now)
        self._offer(blocks, now)

    def pin(self, blocks: Sequence[Block], now: float) -> None:
        """These held blocks are being loaded: they stay until `unpin`."""
        self._touch_all([block for block in blocks if self._is_ordered(block)], now)
        for block in blocks:
            self._doubled.pop(block, None)
            self._pins[block] = self._pins.get(block, 0) + 1

    def unpin(self, blocks: Sequence[Block], now: float, loaded: bool = True) -> None:
        """A load of these is over; `loaded` says whether it came about, and they are on the device."""
        last = []
        for block in blocks:
            self._pins[block] -= 1
            if not self._pins[block]:
                del self._pins[block]
                last.append(block)
        self.loaded_blocks += len(blocks) * loaded
        if loaded and not self.through:
            self._doubled.update(dict.fromkeys(last))
        else:
            self._offer(last, now)

    def drop(self, keys: Iterable[Key], now: float) -> None:
        """What is held of these keys, and not being loaded, is of no use."""
        blocks = [block for block in self._each(keys) if block not in self._pins]
        for block in blocks:
            if block not in self._doubled:
                self.policy.forget(block)
        self._discard(blocks, now)

    def reset(self, now: float) -> None:
        """Nothing is held any more. Loads and copies down must be over: the host waits for them, or fails them."""
        if self._pins or self._writing:
            raise ValueError(f"{len(self._pins)} blocks are being loaded, {len(self._writing)} written: none may be")
        self.drop(list(self._held), now)

    # Order

    def _offer(self, blocks: Collection[Block], now: float) -> None:
        self._releases += 1
        blocks = list(blocks)
        released(blocks, [block.key for block in blocks], self.owned, self._releases, now)
        self._offer_all(blocks, now)

    def restand(self, keys: Iterable[Key], now: float, kept: range = range(0)) -> None:
        """Write standing and owners of what is held of a chain anew; those at `kept` are of the same contexts."""

        def ordered(key: Key) -> Iterable[Block]:
            block = self._held[key]
            return (block,) if self._is_ordered(block) else ()

        if changed := restood(keys, self._held, ordered, self.owned, kept):
            self.policy.observe(BlocksRestood(changed), now)

    def observe(self, event: Event, now: float) -> None:
        """What jobs do, for the policy."""
        self.policy.observe(event, now)

    # Looking

    @property
    def held_blocks(self) -> int:
        """Blocks that may be loaded."""
        return len(self._held)

    def __contains__(self, key: object) -> bool:
        """Whether a key is held."""
        return key in self._held

    def check(self) -> None:
        """Recount; raise `CheckFailed` with the equation that does not hold."""
        self.policy.check()
        places = len(self._empty) + len(self._writing) + len(self._held)
        if places != self.capacity_blocks:
            raise CheckFailed(
                f"tier: {len(self._empty)} empty + {len(self._writing)} written + {len(self._held)} held blocks "
                f"!= {self.capacity_blocks}"
            )
        if self._coming != set(self._writing.values()) or self._coming & self._held.keys():
            raise CheckFailed(f"tier: {len(self._writing)} copies are under way, of {len(self._coming)} keys")
        if len(self.policy) + len(self._doubled) + len(self._pins) != len(self._held):
            raise CheckFailed(
                f"tier: {len(self.policy)} ordered + {len(self._doubled)} doubled + {len(self._pins)} pinned blocks "
                f"!= {len(self._held)} held"
            )
        for key, block in self._held.items():
            if block.key != key or (block in self.policy) + (block in self._doubled) + (block in self._pins) != 1:
                raise CheckFailed(f"tier: {block} is held as {key!r}, and not one of ordered, doubled and pinned")
            owners = self.owned.get(key, NOBODY)
            if block in self.policy and (block.owners is not owners or block.standing is not owners.standing):
                raise CheckFailed(f"tier: {block} does not stand as its owners do, as {owners.standing.value}")
