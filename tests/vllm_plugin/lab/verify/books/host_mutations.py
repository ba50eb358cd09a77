"""Ways to be wrong with host memory below the pool, each of which the model check must find."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from agentcache.residency.tier import Tier
from agentcache.vllm_plugin.copies.orders import Orders, Report
from agentcache.vllm_plugin.copies.porter import Porter
from agentcache.vllm_plugin.lab.verify.books.device import NOTHING, Device

Patch = Callable[[pytest.MonkeyPatch], None]


def _changed_orders(change: Callable[[Orders], Orders]) -> Patch:
    take = Porter.take

    def mutated(self: Porter, started: Iterable[str]) -> Orders | None:
        orders = take(self, started)
        return orders and change(orders)

    return lambda patch: patch.setattr(Porter, "take", mutated)


def _up_as(change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Patch:
    return _changed_orders(lambda orders: dataclasses.replace(orders, up=change(orders.up)))


def _swapped(up: tuple[Any, ...]) -> tuple[Any, ...]:
    blocks, places = zip(*up, strict=True) if up else ((), ())
    return tuple(zip(blocks, reversed(places), strict=True))


def _changed_reports(change: Callable[[Report], Report]) -> Patch:
    over = Porter._over
    return lambda patch: patch.setattr(Porter, "_over", lambda self, report: over(self, change(report)))


def _whole(up: bool) -> Patch:
    return _changed_reports(lambda report: dataclasses.replace(report, failed=report.failed and report.up != up))


def _keys_at_once(patch: pytest.MonkeyPatch) -> None:
    load, name = Porter._load, Porter._name

    def mutated(self: Porter, *args: Any) -> Any:
        made = load(self, *args)
        name(self, made)
        return made

    def unless_named(self: Porter, load: Any) -> None:
        if load.blocks[0].block_hash is None:
            name(self, load)

    patch.setattr(Porter, "_load", mutated)
    patch.setattr(Porter, "_name", unless_named)


def _reset_that_keeps(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Porter, "reset", Porter.cancel)


def _overwritten_first(patch: pytest.MonkeyPatch) -> None:
    copied = Device._copy

    def mutated(self: Device, orders: Orders | None) -> Any:
        for block_id in self._new:
            self._slots[block_id][:] = [NOTHING] * len(self._slots[block_id])
        return copied(self, orders)

    patch.setattr(Device, "_copy", mutated)


def _not_pinned(patch: pytest.MonkeyPatch) -> None:
    """What is loaded may be evicted for what is copied down."""
    pin, unpin = Tier.pin, Tier.unpin

    def unless_gone(self: Tier, blocks: Sequence[Any], now: float, loaded: bool = True) -> None:
        held = [block for block in blocks if self.find([block.key]) == [block]]
        pin(self, held, now)
        unpin(self, held, now, loaded)

    patch.setattr(Tier, "pin", lambda *args: None)
    patch.setattr(Tier, "unpin", unless_gone)


def _freed_with_their_turn(patch: pytest.MonkeyPatch) -> None:
    forget = Porter.forget

    def mutated(self: Porter, request: Any) -> None:
        for load in self._loads.get(request.request_id, []):
            if load.request is request and self._is_awaited(load):
                for index in load.indices:
                    self._filling.pop(request.block_hashes[index], None)
                for batch in (self._next, *self._under_way.values()):
                    if load in batch.loads:
                        batch.loads.remove(load)
                self.tier.unpin(load.places, self._host.now, loaded=False)
                self._pool.free_blocks(load.blocks)
        forget(self, request)

    patch.setattr(Porter, "forget", mutated)


def _found_when_written(patch: pytest.MonkeyPatch) -> None:
    """What goes down is found at once, before it is known to be whole."""
    sink = Porter.sink

    def mutated(self: Porter, victims: Any) -> None:
        sink(self, victims)
        self.tier.written(self._next.written[::-1], self._host.now)
        self._next.written.clear()

    patch.setattr(Porter, "sink", mutated)


MUTATIONS: dict[str, Patch] = {
    "keys given before a load is reported": _keys_at_once,
    "a failed load taken for whole": _whole(up=True),
    "a failed copy down taken for whole": _whole(up=False),
    "a copy down found before it is reported": _found_when_written,
    "a reset that keeps what is below": _reset_that_keeps,
    "copies down of what is overwritten": _overwritten_first,
    "a block up left out": _up_as(lambda up: up[:-1] or up),
    "blocks up in the wrong places": _up_as(_swapped),
    "copies not settled after a cancel": _changed_orders(lambda orders: dataclasses.replace(orders, settle=False)),
    "what is being loaded evicted below": _not_pinned,
    "blocks freed in mid-load with their turn": _freed_with_their_turn,
}
