"""Chains of blocks with shared beginnings, as a tree of runs: how many blocks a set of contexts has, each once."""

from collections.abc import Sequence

from agentcache.model import Key

Chain = Sequence[Key]


class _Run:
    """Blocks [start, end) of a chain, until chains part or end; `after` holds the runs that go on, by their head."""

    __slots__ = ("after", "chain", "end", "start")

    def __init__(self, chain: Chain, start: int, end: int, after: "dict[Key, _Run]") -> None:
        self.chain, self.start, self.end, self.after = chain, start, end, after

    def common(self, chain: Chain) -> int:
        """Up to which index a chain is the same as the run's own; the heads are known to be equal."""
        high = min(self.end, len(chain))
        mine = self.chain
        if mine[high - 1] == chain[high - 1]:
            return high
        low = self.start + 1
        while low < high:  # at low - 1 they are equal, at high - 1 they are not
            middle = (low + high) // 2
            if mine[middle] == chain[middle]:
                low = middle + 1
            else:
                high = middle
        return low


class ChainTree:
    """The union of chains. A chained key commits to all keys before it, so what two chains share is a prefix.

    Asking and adding cost O(runs on the way * log of the length): no key is copied.
    """

    def __init__(self) -> None:
        self._roots: dict[Key, _Run] = {}
        self.blocks = 0

    def new(self, chain: Chain) -> int:
        """Blocks of a chain that no other chain here has."""
        at, runs = 0, self._roots
        while at < len(chain) and (run := runs.get(chain[at])):
            at = run.common(chain)
            if at < run.end:
                break
            runs = run.after
        return len(chain) - at

    def add(self, chain: Chain) -> int:
        """Take a chain in; returns how many of its blocks are new."""
        at, runs = 0, self._roots
        while at < len(chain):
            run = runs.get(chain[at])
            if run is None:
                runs[chain[at]] = _Run(chain, at, len(chain), {})
                self.blocks += len(chain) - at
                return len(chain) - at
            at = run.common(chain)
            if at < run.end:
                if at < len(chain):  # they part inside the run
                    run.after = {run.chain[at]: _Run(run.chain, at, run.end, run.after)}
                    run.end = at
                else:
                    return 0
            runs = run.after
        return 0


class _CountedRun(_Run):
    """A run that `count` chains go through or end in; the last block of each is the end of a run."""

    __slots__ = ("count",)

    def __init__(self, chain: Chain, start: int, end: int, after: "dict[Key, _Run]", count: int) -> None:
        super().__init__(chain, start, end, after)
        self.count = count


class CountedChains:
    """As `ChainTree`, and chains can be taken out again: each as often as it was put in."""

    def __init__(self) -> None:
        self._roots: dict[Key, _Run] = {}
        self.blocks = 0

    def add(self, chain: Chain) -> None:
        at, runs = 0, self._roots
        while at < len(chain):
            run = runs.get(chain[at])
            if run is None:
                runs[chain[at]] = _CountedRun(chain, at, len(chain), {}, 1)
                self.blocks += len(chain) - at
                return
            assert isinstance(run, _CountedRun)
            at = run.common(chain)
            if at < run.end:  # they part, or the chain ends, inside the run
                run.after = {run.chain[at]: _CountedRun(run.chain, at, run.end, run.after, run.count)}
                run.end = at
            run.count += 1
            runs = run.after

    def remove(self, chain: Chain) -> None:
        """Raises `KeyError` for a chain that is not there."""
        at, runs, before = 0, self._roots, None
        while at < len(chain):
            run = runs[chain[at]]
            assert isinstance(run, _CountedRun)
            run.count -= 1
            if not run.count:  # nobody else goes on from here
                del runs[chain[at]]
                self.blocks -= len(chain) - at
                self._join(before)
                return
            at, runs, before = run.end, run.after, run
        self._join(before)

    @staticmethod
    def _join(run: "_CountedRun | None") -> None:
        """Two runs that the same chains go through are one."""
        if run and len(run.after) == 1:
            (after,) = run.after.values()
            assert isinstance(after, _CountedRun)
            if after.count == run.count:
                run.chain, run.end, run.after = after.chain, after.end, after.after
