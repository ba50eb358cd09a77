"""Nothing is remembered for ever: when all have gone, every map of the service is empty, or at a stated bound."""

from collections import deque
from collections.abc import Iterator, Sized
from random import Random
from typing import Any

import pytest

from agentcache.api.messages import (
    ContextState,
    Done,
    EndJob,
    EndTurn,
    FinishTool,
    Pause,
    ReleaseJob,
    Report,
    RetainJob,
    StartJob,
    StartTool,
)
from agentcache.service.directory.directory import Directory, DirectoryConfig

BOUNDS = {
    "counts": 64,  # names that stand in the source
    "tenants": 7,
    "idle_tenants": 7,
    "answers": 4096,
    "_free": 800 + 32,  # pages at once, and those of one report
    "_kept": 4096,  # pauses
    "_tools": 32,
}
"""What may be left, by the map's own name; of all others nothing may."""

CLASSES = 400
"""Of pauses, by standing, tool and depth: what survival knows of classes, and not of contexts."""

OF_POLICIES = {"_group_of": 800 + 32, "_ghosts": 800, "_heap": 68, "_ln_factor": 3, "tallies": 2, "_old": 832}
"""And while its tenant is known: what a policy keeps by block, or clears when it has more stale entries, and who sums
up over the owners of its tree."""


def maps(thing: Any, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Sized]]:
    """Everything with a length that our objects hold, and where."""
    seen = seen if seen is not None else set()
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, dict | set | list | deque):
        yield path, thing
        for value in thing.values() if isinstance(thing, dict) else thing:
            yield from maps(value, f"{path}[]", seen)
    elif type(thing).__module__.startswith("sortedcontainers"):
        yield path, thing
    elif type(thing).__module__.startswith("agentcache"):
        slots = (name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ()))
        for name in {*getattr(thing, "__dict__", ()), *slots}:
            if hasattr(thing, name):
                yield from maps(getattr(thing, name), f"{path}.{name}", seen)


class Churn:
    """Engines whose contexts come, run, move, fork, end and are lost, and clients who say all there is to say."""

    def __init__(self, directory: Directory, seed: int) -> None:
        self.directory, self.rng, self.now = directory, Random(seed), 0.0
        self.seqs: dict[str, int] = {}
        self.held: dict[str, dict[str, ContextState]] = {}
        self.sent: dict[str, list[int]] = {}
        self.epochs = 0

    def report(self, engine: str, *states: ContextState, full: bool = False) -> None:
        fresh = engine not in self.seqs
        self.seqs[engine] = self.seqs.get(engine, 0) + 1
        held = self.held.setdefault(engine, {})
        held |= {state.id: state for state in states if state.state != "gone"}
        shown = tuple(held.values()) if fresh or full else states
        done = tuple(Done(command, "accepted") for command in self.sent.pop(engine, []))
        pauses = (Pause("tool", f"tool{self.rng.randrange(50)}", 1, 2.0),)
        number = self.seqs[engine]
        report = Report(
            engine=engine,
            epoch=f"{self.epochs}",
            seq=number,
            full=fresh or full,
            contexts=shown,
            pauses=pauses,
            done=done if self.rng.random() < 0.9 else (),
        )
        reply = self.directory.report(report, self.now)
        self.sent.setdefault(engine, []).extend(command.id for command in reply.commands)
        if reply.resync:
            self.report(engine, full=True)

    def step(self) -> None:
        rng = self.rng
        self.now += 0.2
        engine, tenant = f"e{rng.randrange(3)}", f"t{rng.randrange(6)}"
        job = f"{tenant}/{rng.randrange(40)}"
        name = rng.choice((job, f"{job}#{rng.randrange(3)}", f"~{rng.randrange(40)}"))
        job = name if name.startswith("~") else job
        tokens = rng.randrange(3000)
        match rng.randrange(12):
            case 0:
                self.held.get(engine, {}).pop(name, None)
                self.report(engine, ContextState(name, job, "gone"))
            case 1 if rng.random() < 0.05:  # it starts anew
                self.held[engine], self.epochs = {}, self.epochs + 1
                del self.seqs[engine]
                self.report(engine)
            case 2:
                action = rng.choice((StartJob, EndJob, ReleaseJob, EndTurn))(
                    job=job.split("/")[-1], request_id=str(self.now)
                )
                self.directory.apply(action, tenant, self.now)
            case 3:
                retain = RetainJob(job=job.split("/")[-1], ttl_s=rng.choice((5.0, 600.0)))
                self.directory.apply(retain, tenant, self.now)
            case 4:
                self.directory.apply(StartTool(job=job.split("/")[-1], tool="bash"), tenant, self.now)
                self.directory.apply(FinishTool(job=job.split("/")[-1], tool="bash"), tenant, self.now)
            case _:
                for state in ("running", "idle")[: 1 + (rng.random() < 0.9)]:
                    runs = ((rng.randrange(tokens // 2 + 1), tokens),) if tokens else ()
                    standing = rng.choice(("tool", "tool", "end_turn", "ended"))
                    self.report(engine, ContextState(name, job, state, standing, "bash", 1, tokens, runs))  # type: ignore[arg-type]
        if rng.random() < 0.1:
            self.directory.check()

    def wait(self) -> None:
        self.now += 1.0
        assert self.now < 2000
        self.directory.tick(self.now)
        self.directory.check()


def over(directory: Directory, bounds: dict[str, int]) -> dict[str, int]:
    """The maps that hold more than they may."""
    found = {}
    for path, held in maps(directory):
        name = path.rpartition(".")[2]
        classes = CLASSES if "survival." in path and name not in ("_pausing", "_sampled") else 0
        if len(held) > bounds.get(name, classes):
            found[path] = len(held)
    return found


@pytest.mark.parametrize("policy", ["return-index", "asymcache", "lru"])
@pytest.mark.parametrize("seed", [1, 2])
def test_when_all_have_gone_nothing_is_left(policy: str, seed: int) -> None:
    config = DirectoryConfig(
        policy=policy,
        page_tokens=100,
        budget_tokens=40_000,
        max_contexts=100,
        max_pages=800,
        max_tenants=4,
        idle_out_s=30.0,
    )
    churn = Churn(Directory(config), seed)
    for _ in range(1500):
        churn.step()
    known = {path for path, held in maps(churn.directory) if len(held)}
    assert {path.rpartition(".")[2] for path in known} > {"by_id", "jobs", "expiries", "_pausing", "_sampled"}
    while churn.directory._books.jobs:
        churn.wait()
    assert churn.directory._books.tenants and not over(churn.directory, BOUNDS | OF_POLICIES)
    while churn.directory._books.tenants:
        churn.wait()
    assert not over(churn.directory, BOUNDS)
