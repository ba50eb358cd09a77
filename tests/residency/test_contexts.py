"""Which context a turn belongs to: by its ids, else by what its blocks show."""

import pytest

from agentcache.cost import CostModel, CostProfile
from agentcache.model import Context, Key, Standing, TurnArrived, shared
from agentcache.residency.contexts import ContextBook

COST = CostModel(CostProfile(c_lin=1e-4, c_att=1e-8), 16)


def chain(text: str) -> tuple[Key, ...]:
    """Chained keys of one letter a block: each commits to all before it."""
    return tuple(text[: end + 1] for end in range(len(text)))


def known(book: ContextBook, text: str, job: str | None = None, context: str | None = None) -> Context:
    """A context that a turn of this content has just left idle."""
    found = book.resolve(TurnArrived("t", chain(text), job, context))
    book.rewrite(found, chain(text))
    return found


@pytest.fixture
def book() -> ContextBook:
    return ContextBook(max_contexts=100, max_keys=1000)


def test_shared_prefix() -> None:
    assert [shared(chain("abcd"), chain(other)) for other in ("", "x", "ab", "abxd", "abcd", "abcde")] == [
        0,
        0,
        2,
        2,
        4,
        4,
    ]


def test_a_context_id_is_taken_at_its_word(book: ContextBook) -> None:
    first = known(book, "abc", job="j", context="c")
    assert book.resolve(TurnArrived("t", chain("xyz"), "j", "c")) is first
    assert book.resolve(TurnArrived("t", chain("abc"), "j", "d")) is not first
    assert [context.id for context in book.of_job("j")] == ["c", "d"]


def test_a_job_has_one_context_until_its_turns_diverge(book: ContextBook) -> None:
    main = known(book, "sabcdef", job="j")
    assert book.resolve(TurnArrived("t", chain("sabcdefgh"), "j")) is main, "it grew"
    branch = book.resolve(TurnArrived("t", chain("stu"), "j"))
    assert branch is not main, "only the system prompt is common: a sub-agent"
    book.rewrite(branch, chain("stu"))
    assert book.resolve(TurnArrived("t", chain("stuv"), "j")) is branch
    main.turns.add("running")
    assert book.resolve(TurnArrived("t", chain("sabcdefgh"), "j")) not in (main, branch), "a parallel turn"


def test_lineage_names_the_context_without_any_id(book: ContextBook) -> None:
    one, other = known(book, "sabc"), known(book, "sxyz")
    assert one.job != other.job
    assert book.resolve(TurnArrived("t", chain("sabcde"))) is one
    assert book.resolve(TurnArrived("t", chain("sxyw"))) is other


def test_a_new_conversation_does_not_take_the_place_of_one_with_the_same_system_prompt(book: ContextBook) -> None:
    old = known(book, "ssabcdef")
    assert book.resolve(TurnArrived("t", chain("ssnew"))) is not old


def test_lineage_leaves_named_and_busy_contexts_alone(book: ContextBook) -> None:
    named, busy = known(book, "abcd", job="j", context="c"), known(book, "wxyz")
    busy.turns.add("running")
    assert book.resolve(TurnArrived("t", chain("abcde"))) is not named
    assert book.resolve(TurnArrived("t", chain("wxyz!"))) is not busy


def test_a_block_stands_as_the_liveliest_of_its_owners(book: ContextBook) -> None:
    one, other = known(book, "sab", context="1"), known(book, "sxy", context="2")
    book.stand(one, Standing.ENDED)
    book.stand(other, Standing.TOOL)
    stands = [book.owners(key).standing for key in ("s", "sa", "sx", "none")]
    assert stands == [Standing.TOOL, Standing.ENDED, Standing.TOOL, Standing.UNKNOWN]


def test_what_a_context_leaves_in_memory_belongs_to_a_remnant(book: ContextBook) -> None:
    one, other = known(book, "sab", context="1"), known(book, "sxyz", context="2")
    dropped, revived = book.rewrite(other, chain("y"))
    assert (dropped, revived) == (chain("sxyz"), [])
    remnant = book.leave(("s", "sx", "sxy"), Standing.SUPERSEDED, 5.0)
    assert remnant is not None and remnant.chain == ("sx", "sxy"), "the first block has another owner"
    assert book.owners("s") == {one} and book.owners("sx") == {remnant}
    book.check()
    assert book.rewrite(one, chain("sx"))[1] == [remnant], "a turn takes up what was left"
    assert book.owners("sx") == {one}
    book.check()
    assert book.forget_key("sx") is None
    assert book.forget_key("sxy") is remnant, "its last block"
    book.check()
    assert not book.owners("sxy")


def test_lineage_never_finds_a_remnant(book: ContextBook) -> None:
    one = known(book, "abcd")
    book.rewrite(one, chain("ab"))
    assert book.leave(("abc", "abcd"), Standing.SUPERSEDED, 0.0)
    assert book.resolve(TurnArrived("t", chain("abcd"))) is one


def test_the_longest_idle_is_forgotten_first(book: ContextBook) -> None:
    small = ContextBook(max_contexts=2, max_keys=1000)
    a, b, c = (known(small, name, context=name) for name in "abc")
    assert small.excess() is a
    small.resolve(TurnArrived("t", (), None, "a"))
    assert small.excess() is b
    b.turns.add("running")
    assert small.excess() is c
    for busy in (a, c):
        busy.turns.add("running")
    assert small.excess() is b, "turns that never finish must not fill the memory"
    small.close(b)
    assert small.excess() is None
    small.check()


def test_chains_are_bounded_by_their_keys() -> None:
    small = ContextBook(max_contexts=100, max_keys=5)
    a, b = known(small, "abcd", context="a"), known(small, "xyz", context="b")
    assert small.excess() is a
    small.close(a)
    assert small.excess() is None
    b.turns.add("running")
    assert small.excess() is None
    assert list(small) == [b]
