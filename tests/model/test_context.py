"""A context shows who it is, not what it holds; common prefixes of chains are found by bisection."""

import os

from hypothesis import given
from hypothesis import strategies as st

from agentcache.model import Context, shared


def test_a_context_is_shown_without_its_chain() -> None:
    shown = repr(Context("c", "j", chain=tuple(range(10_000))))
    assert shown.startswith("Context(id='c', job='j'") and "9999" not in shown


@given(st.text("ab", max_size=12), st.text("ab", max_size=12))
def test_chains_share_their_common_prefix(a: str, b: str) -> None:
    chains = [tuple(text[: end + 1] for end in range(len(text))) for text in (a, b)]
    assert shared(*chains) == len(os.path.commonprefix([a, b]))
