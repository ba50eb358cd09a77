"""One simulated engine of a cluster: what waits for its step to end, and how soon it could finish a call."""

from dataclasses import dataclass, field

from agentcache.cost import CostModel
from agentcache.model import BlocksEvicted, Standing
from agentcache.sim.queueing import Call, Engine, Running


@dataclass(slots=True, eq=False)
class SimReplica:
    """An engine whose state is that of the end of its step, `until_s`; None while it takes none.

    `inbox` are calls that were sent meanwhile, `ending` those that end with the step. No call of it can be finished
    before `soonest_s`.
    """

    name: str
    engine: Engine
    cost: CostModel
    until_s: float | None = None
    inbox: list[Call] = field(default_factory=list)
    ending: list[Running] = field(default_factory=list)
    soonest_s: float = 0.0
    served: int = 0

    @property
    def entries(self) -> list[Running]:
        return self.engine.running + self.engine.waiting

    def send(self, call: Call, now: float) -> None:
        self.inbox.append(call)
        self.served += 1
        if self.until_s is None:
            self.soonest_s = now
        else:
            self.soonest_s = min(self.soonest_s, self.until_s + self._step_s())

    def step(self, now: float, until: float) -> None:
        """Take in what was sent, and begin a step if there is anything to do."""
        for call in self.inbox:
            self.engine.submit(call, now)
        self.inbox.clear()
        if not self.engine.busy:
            return
        self.until_s, self.ending = self.engine.step(now, until)
        # Every step gives a call one token at most, and none is faster than this one before another has ended.
        left = min((entry.call.output_tokens - entry.done for entry in self.entries), default=1)
        self.soonest_s = self.until_s if self.ending else self.until_s + max(left, 1) * self._step_s()

    def _step_s(self) -> float:
        """A step of its decodes alone: the least that any step takes now."""
        profile = self.cost.profile
        decodes = [entry for entry in self.engine.running if not entry.gaps]
        tokens = sum(entry.tokens for entry in decodes)
        return profile.c0 + max(profile.floor, profile.c_dec * len(decodes)) + profile.c_kv * tokens

    def resident_tokens(self, call: Call) -> int:
        """How many tokens of a call's prompt would be found here, from its first one on."""
        size = self.cost.block_size
        keys = call.keys[: (call.prompt_tokens - 1) // size]
        found = self.engine.pool.find(keys)
        return size * next((index for index, block in enumerate(found) if block is None), len(keys))

    def evict(self, context_id: str, now: float) -> int:
        """What the service's `Evict` does: the idle blocks that the context has to itself. Returns how many."""
        residency, pool = self.engine.residency, self.engine.pool
        context = residency.contexts.get(context_id)
        if context is None or context.turns:
            return 0
        found = [block for block in pool.find(context.chain) if block is not None and block in residency]
        owners = residency.contexts.owners
        blocks = [
            block
            for block in found
            if all(owner is context or owner.standing is Standing.ENDED for owner in owners(block.key))
        ]
        pool.acquire(blocks, now)
        pool.drop(blocks)
        residency.observe(BlocksEvicted(tuple(block.key for block in blocks)), now)
        return len(blocks)
