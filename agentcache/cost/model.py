"""The cost model: seconds to rebuild a block at a position, seconds of a step."""

from collections.abc import Iterable

from agentcache.cost.profile import CostProfile


class CostModel:
    """Prices blocks of `block_size` tokens by a profile.

    A block at position index i costs `a + b i` seconds to rebuild, whatever else is resident: linear work is the
    same for every block, attention grows with what stands before it. This is AsymCache's eq. (7) with the causal
    triangle counted once: a = (c_lin - c_load) B + c_att B^2, b = 2 c_att B^2.
    """

    def __init__(self, profile: CostProfile, block_size: int) -> None:
        self.profile = profile
        self.block_size = block_size
        # A fit in which touching a token costs more than computing it is noise; a price must stay positive.
        linear = max(profile.c_lin - profile.c_load, 1e-3 * profile.c_lin)
        self.a = linear * block_size + profile.c_att * block_size**2
        self.b = 2 * profile.c_att * block_size**2

    def block_seconds(self, index: int) -> float:
        """Seconds to rebuild the block with `index` blocks before it."""
        return self.a + self.b * index

    def run_seconds(self, head: int, count: int) -> float:
        """Seconds to rebuild `count` consecutive blocks from index `head` on; equals the sum over the blocks."""
        return count * self.a + self.b * count * (2 * head + count - 1) / 2

    def segments_seconds(self, segments: Iterable[tuple[int, int]], resident_tokens: int = 0) -> float:
        """Seconds to compute token ranges [p, e) of one prompt of which `resident_tokens` are reused; c0 is in."""
        return self.step_seconds(segments, resident_tokens=resident_tokens)

    def step_seconds(
        self,
        segments: Iterable[tuple[int, int]],
        decodes: int = 0,
        context_tokens: int = 0,
        resident_tokens: int = 0,
    ) -> float:
        """Seconds of a step with these prefill segments and `decodes` decodes over `context_tokens` tokens in all."""
        p = self.profile
        segments = list(segments)
        linear = sum(end - start for start, end in segments)
        pairs = sum(end * end - start * start for start, end in segments)
        extra = max(len(segments) - 1, 0)
        return (
            p.c0
            + p.c_seg * extra
            + max(p.floor, p.c_lin * linear + p.c_dec * decodes)
            + p.c_load * resident_tokens
            + p.c_att * pairs
            + p.c_kv * context_tokens
        )
