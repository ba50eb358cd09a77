"""Resident shares: kept up to date as blocks come and go, they are what a recount says."""

from hypothesis import given
from hypothesis import strategies as st

from agentcache.residency.resident_shares import ResidentShares

KEYS = st.lists(st.integers(0, 9), max_size=5)
STEPS = st.one_of(
    st.tuples(st.just("stored"), KEYS),
    st.tuples(st.just("evicted"), KEYS),
    st.tuples(st.just("add"), st.integers(0, 3), st.lists(st.integers(0, 9), max_size=6, unique=True)),
    st.tuples(st.just("remove"), st.integers(0, 3)),
)


@given(st.lists(STEPS, max_size=30))
def test_shares_are_those_of_a_recount(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    shares, resident, waiting = ResidentShares(), list[int](), dict[str, tuple[int, ...]]()
    for step, *rest in steps:
        if step == "stored":
            shares.stored(rest[0])
            resident += rest[0]
        elif step == "evicted":
            gone = [key for i, key in enumerate(rest[0]) if rest[0][: i + 1].count(key) <= resident.count(key)]
            shares.evicted(gone)
            for key in gone:
                resident.remove(key)
        elif step == "add":
            shares.remove(f"t{rest[0]}")
            shares.add(f"t{rest[0]}", tuple(rest[1]))
            waiting[f"t{rest[0]}"] = tuple(rest[1])
        else:
            shares.remove(f"t{rest[0]}")
            waiting.pop(f"t{rest[0]}", None)
        shares.check()
        for turn, keys in waiting.items():
            assert shares.of(turn) == (sum(key in resident for key in keys) / len(keys) if keys else 0.0)


def test_only_what_somebody_waits_for_is_news() -> None:
    shares = ResidentShares()
    shares.add("t", ("a", "b"))
    assert not shares.stored(["x"])
    assert shares.stored(["a"])
    assert shares.of("t") == 0.5
    assert not shares.stored(["a"]), "a second copy"
    assert not shares.evicted(["a"])
    assert shares.evicted(["a"])
    assert shares.of("t") == 0.0
    assert shares.of("nobody") == 0.0
