"""The device that keeps books: what a worker would write and read, step by step, without computing anything."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from agentcache.vllm_plugin.blocks.holes import SEGMENTS, Run
from agentcache.vllm_plugin.compat import ModelRunnerOutput
from agentcache.vllm_plugin.copies.orders import ORDERS, REPORTS, Orders, Report
from agentcache.vllm_plugin.lab.verify.books.below import Below
from agentcache.vllm_plugin.lab.verify.books.text import Text, follow
from agentcache.vllm_plugin.lab.verify.rig import Wrong

NOTHING = 0
"""What a slot holds that nobody has written since its block was handed out."""


@dataclass(frozen=True, slots=True)
class Group:
    """A KV group: layers that share a block table. `window`: how many tokens back they see; None: all.

    `chunk`: they see no further back than to its begin. `state`: a block has one state instead of K/V, of the last
    token computed in it, and its first slot stands for that (vLLM's cache mode "align").
    """

    block_size: int
    window: int | None = None
    chunk: int | None = None
    state: bool = False

    def sees_from(self, position: int) -> int:
        """The first position that the token here sees."""
        if self.chunk is not None:
            return position // self.chunk * self.chunk
        return 0 if self.window is None else max(position - self.window + 1, 0)


@dataclass(slots=True)
class _Row:
    """A request in the worker's persistent batch: its tables by group, and how many of its tokens exist so far.

    `drafts` are the tokens behind those that this step computes to see whether they are the text's.
    `state`: the index in its tables at which its states are; None before its first step here.
    """

    text: Text
    tables: list[list[int]]
    known: int
    drafts: list[int] = field(default_factory=list)
    state: int | None = None

    def prefixes(self, start: int, end: int) -> list[int]:
        """As of the text, but behind what is known it is the drafts that are computed."""
        found = self.text.prefixes(start, min(end, self.known))
        if end > self.known:
            (last,) = self.text.prefixes(self.known - 1, self.known)
            for position, token in enumerate(self.drafts[: end - self.known], self.known):
                last = follow(last, token)
                if position >= start:
                    found.append(last)
        return found

    def sample(self) -> list[int]:
        """The drafts up to the first that is not the text's, and the text's own token in its place or behind them."""
        own = self.text.tokens(self.known, self.known + len(self.drafts) + 1)
        right = next((at for at, token in enumerate(self.drafts) if token != own[at]), len(self.drafts))
        self.known += right + 1
        return own[: right + 1]


class Device:
    """Carries out scheduler outputs in their order, as a stream does; whether before or after is the caller's affair.

    `texts` are the requests' by id. A step writes the K/V of all its tokens before any of them is read, layer by layer.
    """

    def __init__(self, blocks: int, groups: Sequence[Group], texts: Mapping[str, Text], places: int = 0) -> None:
        self.groups = groups
        self._texts = texts
        self._rows: dict[str, _Row] = {}
        most = max(group.block_size for group in groups)
        self._slots = [[NOTHING] * most for _ in range(blocks)]
        self._new: list[int] = []
        self._below = Below(self._slots, places) if places else None

    def hand_out(self, block_ids: Iterable[int]) -> None:
        """These blocks get a new owner: nothing in them is worth anything, once the next step has copied it down."""
        self._new += block_ids

    def forget(self) -> None:
        """The cache has been reset, as after a change of weights: what has been computed is worth nothing."""
        for slots in self._slots:
            slots[:] = [NOTHING] * len(slots)
        if self._below:
            self._below.forget()

    def holds(self, block_id: int, prefixes: Sequence[int], group: int = 0) -> bool:
        """Whether a block holds the K/V of exactly these prefixes, from its first slot on; or the last one's state."""
        if self.groups[group].state:
            return self._slots[block_id][0] == prefixes[-1]
        return self._slots[block_id][: len(prefixes)] == list(prefixes)

    def draft(self, name: str, most: int) -> list[int]:
        """Up to so many tokens as a drafter might put behind a request's: its own, and behind them others."""
        row = self._rows[name]
        luck = crc32(f"{name} {row.known}".encode())
        count, right = luck % (most + 1), luck // 7 % (most + 1)
        return [
            token if at < right else token + 1 for at, token in enumerate(row.text.tokens(row.known, row.known + count))
        ]

    def execute(self, output: Any) -> tuple[ModelRunnerOutput, dict[int, set[str]]]:
        """Carry a step out: its sampled tokens, and who wrote to which block. Raises `Wrong`."""
        reports = self._copy(getattr(output, ORDERS, None))
        self._update(output)
        starts = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        cached = output.scheduled_cached_reqs
        starts |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        told = getattr(output, SEGMENTS, None) or {}
        work = {}
        for name, count in output.num_scheduled_tokens.items():
            segments = told.get(name) or [(starts[name], starts[name] + count)]
            if sum(end - start for start, end in segments) != count:
                raise Wrong(f"{name}: {count} tokens are scheduled, its segments are {segments}")
            work[name] = segments
        drafts = getattr(output, "scheduled_spec_decode_tokens", None) or {}
        for name, segments in work.items():
            row, end = self._rows[name], segments[-1][1]
            row.drafts = drafts.get(name, [])
            if end > row.known + len(row.drafts):
                raise Wrong(f"{name} computes up to position {end}, and only {row.known} of its tokens exist")
        self._carry(work)
        writers = self._write(work)
        names = list(work)
        sampled = [self._read_and_sample(name, work[name]) for name in names]
        result = ModelRunnerOutput(names, {name: row for row, name in enumerate(names)}, sampled)
        if reports is not None:
            setattr(result, REPORTS, reports)
        return result, writers

    def _copy(self, orders: Orders | None) -> list[Report] | None:
        """Copies of a step, and what is over by now; None of a device without memory below."""
        down = self._below.down(orders) if self._below else []
        for block_id in self._new:
            self._slots[block_id][:] = [NOTHING] * len(self._slots[block_id])
        self._new.clear()
        return [*down, *self._below.up(orders)] if self._below else None

    def _update(self, output: Any) -> None:
        for name in output.finished_req_ids:
            self._rows.pop(name, None)
        for new in output.scheduled_new_reqs:
            tokens = new.prefill_token_ids or new.prompt_token_ids
            self._rows[new.req_id] = _Row(self._texts[new.req_id], [list(ids) for ids in new.block_ids], len(tokens))
        cached = output.scheduled_cached_reqs
        for name, block_ids, outputs in zip(
            cached.req_ids, cached.new_block_ids, cached.num_output_tokens, strict=True
        ):
            row = self._rows[name]
            if name in cached.resumed_req_ids:
                row.tables = [list(ids) for ids in block_ids]
                row.known, row.state = row.text.prompt_tokens + outputs, None
            elif block_ids is not None:
                for table, more in zip(row.tables, block_ids, strict=True):
                    table.extend(more)

    def _carry(self, work: Mapping[str, Sequence[Run]]) -> None:
        """Before anybody computes, states are copied to where the step ends, as vLLM's `preprocess_mamba` does."""
        if not any(group.state for group in self.groups):
            return
        size = next(group.block_size for group in self.groups if group.state)
        carried: dict[int, int] = {}
        for name, segments in work.items():
            if len(segments) != 1:
                raise Wrong(f"{name} computes {segments}, and its states cannot jump")
            ((start, end),) = segments
            row = self._rows[name]
            was = row.state if row.state is not None else (start - 1) // size
            row.state = -(-end // size) - 1
            for number, group in enumerate(self.groups):
                if group.state and start:
                    table = row.tables[number]
                    self._read_state(name, table[was], row.text.prefixes(start - 1, start)[0])
                    if was != row.state:
                        carried[table[row.state]] = self._slots[table[was]][0]
        for block_id, state in carried.items():
            self._slots[block_id][0] = state

    def _read_state(self, name: str, block_id: int, prefix: int) -> None:
        if (held := self._slots[block_id][0]) != prefix:
            what = "nothing" if held == NOTHING else "the state of another prefix"
            raise Wrong(f"{name} goes on from the state in block {block_id}, which holds {what}")

    def _write(self, work: Mapping[str, Sequence[Run]]) -> dict[int, set[str]]:
        writers: dict[int, set[str]] = {}
        written: dict[tuple[int, int], str] = {}
        for name, segments in work.items():
            row = self._rows[name]
            for number, group in enumerate(self.groups):
                for position, index, offset, prefix in self._written(row, group, segments):
                    if index >= len(row.tables[number]):
                        raise Wrong(f"{name} writes position {position} and has {len(row.tables[number])} blocks")
                    block_id = row.tables[number][index]
                    if not block_id:
                        raise Wrong(f"{name} writes position {position} to the null block")
                    if (other := written.setdefault((block_id, offset), name)) != name:
                        raise Wrong(f"{name} and {other} write slot {offset} of block {block_id} in one step")
                    self._slots[block_id][offset] = prefix
                    writers.setdefault(block_id, set()).add(name)
        return writers

    @staticmethod
    def _written(row: _Row, group: Group, segments: Sequence[Run]) -> Iterator[tuple[int, int, int, int]]:
        """Of all that is written: the position, where in the table and in its block, and the prefix."""
        for start, end in segments:
            first = end - 1 if group.state else start
            for position, prefix in zip(range(first, end), row.prefixes(first, end), strict=True):
                index, offset = divmod(position, group.block_size)
                yield position, index, 0 if group.state else offset, prefix

    def _read_and_sample(self, name: str, segments: Sequence[Run]) -> list[int]:
        row = self._rows[name]
        end = segments[-1][1]
        for number, group in enumerate(self.groups):
            for start, stop in segments:
                if not group.state:
                    self._read(name, row, number, group.sees_from(start), stop)
        if end < row.known:
            return []
        return row.sample()

    def _read(self, name: str, row: _Row, number: int, start: int, end: int) -> None:
        """Positions [start, end) are read: each must hold what it is of."""
        size, table = self.groups[number].block_size, row.tables[number]
        for index in range(start // size, -(-end // size)):
            first, last = max(start, index * size), min(end, (index + 1) * size)
            slots = self._slots[table[index]][first - index * size : last - index * size]
            if slots != row.prefixes(first, last):
                place = f"positions {first} to {last - 1} of {name} in block {table[index]}"
                raise Wrong(f"{place} are read, and hold " + ("nothing" if NOTHING in slots else "another prefix"))
