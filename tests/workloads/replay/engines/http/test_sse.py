import itertools

from hypothesis import given
from hypothesis import strategies as st

from agentcache_workloads.replay.engines.http.sse import Events

STREAM = b': ping\n\ndata: {"a": 1}\r\n\r\nevent: x\nid: 3\ndata: two\ndata:lines\n\ndata: [DONE]\n\ndata: unfinished\n'


def test_whole_events_without_what_is_beside_them() -> None:
    assert Events().feed(STREAM) == [b'{"a": 1}', b"two\nlines", b"[DONE]"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_pieces_of_any_size_give_the_same_events(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    events = Events()
    found = [data for start, end in itertools.pairwise(edges) for data in events.feed(STREAM[start:end])]
    assert found == [b'{"a": 1}', b"two\nlines", b"[DONE]"]
