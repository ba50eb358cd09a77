"""Rendering: the prompts and outputs of jobs as engine tokens; equal ids give equal tokens, on any machine."""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import shake_128

from agentcache.errors import InputError
from agentcache_workloads.readers.trace import Meta
from agentcache_workloads.replay.jobs.jobs import PlannedJob, PlannedTurn

FIRST_TOKEN = 3  # the ids below are special in most vocabularies


@dataclass(frozen=True, slots=True)
class Sizes:
    """Lengths of one turn in engine tokens: the trace's whole blocks, the rest of the prompt, the output."""

    body: int
    tail: int
    output: int

    @property
    def prompt(self) -> int:
        return self.body + self.tail

    @property
    def total(self) -> int:
        return self.prompt + self.output


class Renderer:
    """Renders each trace block as `tokens_per_block` tokens by a seeded hash of its id.

    The rest of a prompt and outputs scale by `tokens_per_block / block_size` and have at least one token. Where a
    branch's next turn extends a turn, that turn's prompt and output are the first tokens of the next one's prompt, so
    that the K/V of forced outputs is met again exactly; elsewhere the rest and the output are unique. Tokens are in
    [3, `vocab_size`). The same seed gives the same tokens, another seed shares none but by chance.
    """

    def __init__(self, meta: Meta, tokens_per_block: int, vocab_size: int, seed: int) -> None:
        assert meta.block_size is not None
        self._meta = meta
        self._block_size = meta.block_size
        self._k = tokens_per_block
        self._tokens = vocab_size - FIRST_TOKEN
        self._seed = seed
        self._ends: dict[str, list[list[int]]] = {}
        self._block = lru_cache(maxsize=1 << 16)(self._render_block)

    def sizes(self, turn: PlannedTurn) -> Sizes:
        """The lengths of a turn; raises `InputError` where its block ids and token count disagree."""
        call, size = turn.call, self._block_size
        ids = len(turn.call.items or ())
        expected = -(-call.in_tok // size) if self._meta.tail_hashed else call.in_tok // size
        if abs(ids - expected) > max(2, 0.02 * expected):  # captured counts may differ by a little
            raise InputError(
                f"turn {turn.id} has {ids} block ids for {call.in_tok} prompt tokens, expected {expected} of {size} "
                "tokens each; nothing was replayed"
            )
        whole = max(ids - 1, 0) if self._meta.tail_hashed else ids
        tail = self._scaled(call.in_tok - whole * size)
        return Sizes(whole * self._k, min(tail, self._k), self._scaled(call.out_tok))

    def render(self, job: PlannedJob, turn: PlannedTurn) -> tuple[list[int], list[int]]:
        """The prompt of a turn, and the output to force."""
        if job.id not in self._ends:
            self._ends[job.id] = self._render_ends(job)
        sizes = self.sizes(turn)
        end = self._ends[job.id][turn.index]
        return self._blocks(turn, 0, sizes.body) + end[: sizes.tail], end[sizes.tail :]

    def forget(self, job: PlannedJob) -> None:
        """Drop what is kept for a job that has ended."""
        self._ends.pop(job.id, None)

    def _render_ends(self, job: PlannedJob) -> list[list[int]]:
        """For each turn, the tokens behind its body: the rest of its prompt and its output."""
        ends: list[list[int]] = [[]] * len(job.turns)
        for turn in reversed(job.turns):  # what extends a turn stands behind it
            sizes = self.sizes(turn)
            known: list[int] = []
            if upcoming := self.extension(job, turn):
                body = self.sizes(upcoming).body
                known = self._blocks(upcoming, sizes.body, min(sizes.total, body))
                if sizes.total > body:
                    tail = self.sizes(upcoming).tail
                    known += ends[upcoming.index][: min(sizes.total - body, tail)]
            missing = sizes.total - sizes.body - len(known)
            ends[turn.index] = known + self._hashed(f"end/{turn.id}", missing)
        return ends

    def extension(self, job: PlannedJob, turn: PlannedTurn) -> PlannedTurn | None:
        """The branch's next turn, if its prompt begins with this one's blocks and is longer than this prompt."""
        if turn.followed_by is None:
            return None
        upcoming = job.turns[turn.followed_by]
        mine = self.sizes(turn)
        blocks = mine.body // self._k
        same = (turn.call.items or ())[:blocks] == (upcoming.call.items or ())[:blocks]
        theirs = self.sizes(upcoming)
        return upcoming if same and theirs.body >= mine.body and theirs.prompt > mine.prompt else None

    def _blocks(self, turn: PlannedTurn, start: int, end: int) -> list[int]:
        """Tokens [start, end) of a turn's body; `start` is at a block's first token."""
        scope = self.scope(turn)
        items = (turn.call.items or ())[start // self._k : -(-end // self._k)]
        return [token for item in items for token in self._block(f"{scope}{item}")][: end - start]

    def scope(self, turn: PlannedTurn) -> str:
        """What the ids of a turn's blocks are unique within: empty for the whole trace."""
        return f"{turn.context}/" if self._meta.hash_scope == "session" else ""

    def _scaled(self, trace_tokens: int) -> int:
        return max(round(trace_tokens * self._k / self._block_size), 1)

    def _render_block(self, name: str) -> list[int]:
        return self._hashed(f"block/{name}", self._k)

    def _hashed(self, name: str, count: int) -> list[int]:
        data = shake_128(f"{self._seed}/{name}".encode()).digest(4 * count)
        return [FIRST_TOKEN + int.from_bytes(data[i : i + 4], "little") % self._tokens for i in range(0, 4 * count, 4)]
