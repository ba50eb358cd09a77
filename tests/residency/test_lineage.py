"""Which turns go on from which contexts: a table by hand, each case with the right value and why."""

from dataclasses import dataclass

import pytest

from agentcache.model import Block, Context, Key, Standing, Stop, TurnAborted, TurnArrived, TurnFinished
from agentcache.policy.published.lru import Lru
from agentcache.residency import Residency
from tests.residency.test_contexts import COST, chain

SYSTEM = "s" * 40
TOOL, END, CUT = Stop.TOOL_USE, Stop.END_TURN, None  # None: the client has gone before the end


@dataclass
class Told:
    """A turn: its prompt, one letter a block, what was answered, and how that ended."""

    prompt: str
    answer: str = ""
    stop: Stop | None = TOOL


class Teller:
    """A residency that is told of whole turns."""

    def __init__(self) -> None:
        self.residency = Residency(Lru(COST, 10_000), 10_000)
        self.turns = 0
        self.blocks: dict[Key, Block] = {}  # of all turns, always free

    def arrives(self, prompt: str, job: str | None = None) -> str:
        self.turns += 1
        self.residency.observe(TurnArrived(f"t{self.turns}", chain(prompt), job), float(self.turns))
        return f"t{self.turns}"

    def turn(self, told: Told, job: str | None = None) -> Context:
        name = self.arrives(told.prompt, job)
        (context,) = [context for context in self.residency.contexts if name in context.turns]
        if told.stop is CUT:
            self.residency.observe(TurnAborted(name), float(self.turns))
        else:
            keys = chain(told.prompt + told.answer)
            self.residency.observe(TurnFinished(name, keys, told.stop), float(self.turns))
            new = [(at, key) for at, key in enumerate(keys) if key not in self.blocks]
            self.blocks |= {key: Block(len(self.blocks) + at, key, at) for at, key in new}
            self.residency.release([self.blocks[key] for _, key in reversed(new)], float(self.turns))
        self.residency.check()
        return context


FIRST = SYSTEM + "task1"
GROWN = [Told(FIRST, "aaaa"), Told(FIRST + "aaaa" + "rrrr", "bbbb"), Told(FIRST + "aaaarrrrbbbb" + "uuuu", "cccc")]
ALL = FIRST + "aaaarrrrbbbbuuuucccc"
TWO = [Told(FIRST, "aaaa"), Told(SYSTEM + "other", "xxxx")]

CASES = {
    # What goes on
    "the next turn": (GROWN, ALL + "next", 2, "all that it has is there"),
    "less than a block more": ([Told(FIRST, "aaaa")], FIRST + "aaaa", 0, "nothing of it is left behind"),
    "an answer of less than a block": ([Told(FIRST)], FIRST + "next", 0, "nothing of it is left behind"),
    "a system prompt longer than the rest": (TWO, FIRST + "aaaanext", 0, "its own part is there, however small"),
    "the other of two": (TWO, SYSTEM + "otherxxxxnext", 1, "its own part is there"),
    "reasoning is not sent back": ([Told(FIRST, "thoughts")], FIRST + "answer+result", 0, "all that it was given is"),
    "reasoning is not sent back, of two": (TWO, FIRST + "new", 0, "all that it was given is, and is its own"),
    "a turn that was cut off, again": ([Told(FIRST, stop=CUT)], FIRST, 0, "nothing of it is left behind"),
    # Retries of one turn
    "the same turn again": (GROWN, ALL[:-4], 2, "all that it was given is there, of its own past too"),
    "the same turn, but for its last block": (GROWN, ALL[:-5] + "!", 2, "the block at the prompt's end is the turn's"),
    "the first turn again": ([Told(FIRST, "aaaa")], FIRST, None, "another agent with this task would ask the same"),
    "the first turn, but for its last block": (
        TWO,
        FIRST[:-1] + "!",
        0,
        "what others have is known: the rest is its own",
    ),
    "the first turn, of one agent": ([Told(FIRST, "aaaa")], FIRST[:-1] + "!", None, "it looks like another agent"),
    # Edits of the past
    "the last question, anew": ([*GROWN[:2], Told(GROWN[2].prompt, "cccc", END)], ALL[:-8] + "v", 2, "most stays"),
    "an early question, anew": ([*GROWN[:2], Told(GROWN[2].prompt, "cccc", END)], FIRST + "v", None, "most would go"),
    "the first question, anew": ([Told(FIRST, "aaaa", END)], SYSTEM + "taskB", None, "it looks like another agent"),
    # Compaction
    "a summary for the history": (GROWN, SYSTEM + "summary", None, "only the system prompt is common"),
    "a summary behind the task": (GROWN, FIRST + "summary", None, "another agent with the same task looks like it"),
    # Forks
    "a branch while a tool runs": (GROWN, ALL[:-8] + "v", None, "who waits for a tool goes on with its result"),
    "a second branch": ([*GROWN, Told(ALL + "left", "l", END)], ALL + "right", 2, "a question, anew, looks like it"),
    "a third branch": (
        [*GROWN, Told(ALL + "left" * 9, "l"), Told(ALL + "right" * 9, "r")],
        ALL + "middle",
        None,
        "what two branches have is neither's own",
    ),
    "back on the left": (
        [*GROWN, Told(ALL + "left" * 9, "l"), Told(ALL + "right" * 9, "r")],
        ALL + "left" * 9 + "lmore",
        2,
        "its own part is there",
    ),
    # Agents alike
    "a second agent, longer task": ([Told(FIRST, "aaaa")], SYSTEM + "a long task", None, "only the prompt is common"),
    "a second agent, before any answer": ([Told(FIRST)], SYSTEM + "other", None, "only the prompt is common"),
    "nothing but the system prompt": ([Told(SYSTEM, "aaaa")], SYSTEM, None, "nothing of its own is there"),
    "nothing but the system prompt, nothing said": ([Told(SYSTEM)], SYSTEM, 0, "nothing of its own could be lost"),
    "another prompt": (TWO, "unheard of", None, "nothing is common"),
}


@pytest.mark.parametrize("job", [None, "job"])
@pytest.mark.parametrize("case", CASES)
def test_a_turn_goes_on_from(case: str, job: str | None) -> None:
    history, prompt, expected, why = CASES[case]
    teller = Teller()
    contexts = [teller.turn(told, job) for told in history]
    known = list(dict.fromkeys(contexts))
    found = teller.turn(Told(prompt), job)
    assert found is (contexts[expected] if expected is not None else found), why
    assert (found in known) == (expected is not None), why


@pytest.mark.parametrize("job", [None, "job"])
@pytest.mark.parametrize("own", [5, 20])
@pytest.mark.parametrize("told", [0, 3, 5])
def test_agents_with_one_long_system_prompt_stay_apart(own: int, told: int, job: str | None) -> None:
    """`told` of an agent's own blocks are in its first prompt, the rest is its answer."""
    teller, texts = Teller(), [str(number) * own for number in range(8)]
    agents = [teller.turn(Told(SYSTEM + text[:told], text[told:]), job) for text in texts]
    assert len(set(agents)) == len(teller.residency.contexts) == 8
    assert {block.standing for block in teller.blocks.values()} == {Standing.TOOL}, "none is superseded"
    assert [teller.turn(Told(SYSTEM + text + "next"), job) for text in texts] == agents, "and each goes on"


def test_a_busy_context_is_not_gone_on_from() -> None:
    teller = Teller()
    first = teller.turn(Told(FIRST, "aaaa"))
    teller.arrives(FIRST + "aaaaleft")
    assert teller.turn(Told(FIRST + "aaaaright")) is not first


def test_jobs_go_on_from_contexts_of_their_own() -> None:
    teller = Teller()
    agents = {job: teller.turn(Told(FIRST, job * 4), job) for job in "abc"}
    for job, context in agents.items():
        assert teller.turn(Told(FIRST + "without" + job), job) is context, "of this job it is the only one"
    assert teller.turn(Told(FIRST + "without"), None) not in agents.values(), "and nobody's turn takes a named one"


def test_a_sub_agent_is_apart_from_the_agent_that_started_it() -> None:
    teller = Teller()
    main = teller.turn(Told(FIRST, "aaaa"), "job")
    children = [teller.turn(Told(SYSTEM + text, "xxxx"), "job") for text in ("read", "find", "test")]
    assert len({main, *children}) == 4
    assert teller.turn(Told(FIRST + "aaaa" + "results", "bbbb"), "job") is main
    assert {context.job for context in children} == {"job"}
