"""The link from the tier to the device, in simulated time: loads go one after the other."""

from dataclasses import dataclass

from agentcache.cost.loads import LoadPrice


@dataclass(slots=True)
class Link:
    """Loads at a price; `free_at` is when the last one is over, `busy_s` how long all of them took."""

    price: LoadPrice
    free_at: float = 0.0
    busy_s: float = 0.0
    loads: int = 0

    def wait_s(self, now: float) -> float:
        """How long a load that is asked for now waits before it begins."""
        return max(self.free_at - now, 0.0)

    def load(self, blocks: int, now: float) -> float:
        """Ask for a load; returns when it is over."""
        seconds = self.price.seconds(blocks)
        self.free_at = now + self.wait_s(now) + seconds
        self.busy_s += seconds
        self.loads += 1
        return self.free_at
