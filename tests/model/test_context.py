"""Spans are the maximal runs of evictable blocks with the same sharers."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from agentcache.model import Context, Span, spans


def cut(users: list[int]) -> list[Span]:
    context = Context("c", "j", chain=tuple(range(len(users))))
    return list(spans(context, users.__getitem__))


def test_a_hole_and_a_change_of_sharers_cut() -> None:
    assert cut([3, 3, 1, 0, 0, 1, 1]) == [Span("c", 0, 1, 3), Span("c", 2, 2, 1), Span("c", 5, 6, 1)]


def test_nothing_evictable_has_no_span() -> None:
    assert cut([]) == []
    assert cut([0, 0]) == []


@given(st.lists(st.integers(0, 3), max_size=30))
def test_spans_cover_the_evictable_blocks_once_and_are_maximal(users: list[int]) -> None:
    found = cut(users)
    covered = [index for span in found for index in range(span.head, span.tail + 1)]
    assert covered == [index for index, n in enumerate(users) if n]
    assert all({users[i] for i in range(span.head, span.tail + 1)} == {span.users} for span in found)
    assert sum(map(len, found)) == len(covered)
    for left, right in itertools.pairwise(found):
        assert left.tail + 1 < right.head or left.users != right.users
