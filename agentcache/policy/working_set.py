"""Admission by working set: which jobs take turns at once, so that their contexts fit the pool together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agentcache.errors import ConfigError
from agentcache.model import Key, shared


@dataclass(frozen=True, slots=True)
class WorkingSetConfig:
    """What the rule may be told.

    `release_s`: a job paused for longer gives up its place until it returns. `headroom`: share of the pool left free.
    `growth_quantile`: of the growth of past turns, what the next one is granted. `max_hold_s`: after which a held
    turn runs whatever fits.
    """

    release_s: float = 60.0
    headroom: float = 0.05
    growth_quantile: float = 0.75
    max_hold_s: float = 600.0

    def __post_init__(self) -> None:
        fine = {
            "release_s": self.release_s >= 0,
            "headroom": 0 <= self.headroom < 1,
            "growth_quantile": 0 <= self.growth_quantile <= 1,
            "max_hold_s": self.max_hold_s > 0,
        }
        if wrong := [name for name, ok in fine.items() if not ok]:
            given = ", ".join(f"{name} {getattr(self, name)}" for name in wrong)
            raise ConfigError(
                f"admission 'working-set': {given} is out of range; nothing was started",
                hint="release_s >= 0, 0 <= headroom < 1, 0 <= growth_quantile <= 1, max_hold_s > 0",
            )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A live job: it has a turn queued or running, or is expected back soon.

    `order` is its place (smaller first): priority, then arrival. `chains` are the keys of its contexts and of its
    queued prompts; `growth_blocks` is what its next turn may add. `held_s` is how long its oldest queued turn has
    waited for admission, 0 if none does; `turns` says that it has a turn queued or running.
    """

    job: str
    order: tuple[float, ...]
    chains: Sequence[Sequence[Key]]
    growth_blocks: int = 0
    held_s: float = 0.0
    turns: bool = True


@dataclass(frozen=True, slots=True)
class Choice:
    """Who is in, with how many blocks; why each of the others is not; who is in although the sum does not fit.

    Such exceptions had waited too long, or nobody else could have run.
    """

    members: tuple[str, ...]
    used_blocks: int
    held: dict[str, str]
    exceptions: tuple[str, ...]


def choose(candidates: Iterable[Candidate], capacity_blocks: int, config: WorkingSetConfig) -> Choice:
    """Apply the rule to the live jobs.

    In their order, jobs join while the sum of their footprints fits the pool less the headroom; the first that does
    not fit ends the set, so that taking a job out never removes another member. The first job is always a member.
    Shared blocks count once. Whatever the sum says, a job held for longer than `max_hold_s` joins, and when all
    members are paused, so does the first job that has a turn: an idle engine serves nobody.
    """
    limit = capacity_blocks * (1 - config.headroom)
    ordered = sorted(candidates, key=lambda candidate: (candidate.order, candidate.job))
    members: list[str] = []
    exceptions: list[str] = []
    held: dict[str, str] = {}
    chains: list[Sequence[Key]] = []
    used = 0
    full = busy = False
    for candidate in ordered:
        need = _footprint(candidate, chains)
        full = full or bool(members and used + need > limit)
        late = candidate.held_s > config.max_hold_s or (candidate.turns and not busy)
        if full and not late:
            taken = f"{used} of {int(limit)} are taken by {len(members)} jobs before it"
            held[candidate.job] = f"needs {need} blocks, {taken}"
            continue
        members.append(candidate.job)
        if full:
            exceptions.append(candidate.job)
        busy = busy or candidate.turns
        used += need
        chains.extend(candidate.chains)
    return Choice(tuple(members), used, held, tuple(exceptions))


def _footprint(candidate: Candidate, others: Sequence[Sequence[Key]]) -> int:
    own = candidate.chains
    return candidate.growth_blocks + sum(new_keys(chain, others, own[:i]) for i, chain in enumerate(own))


def new_keys(chain: Sequence[Key], *groups: Iterable[Sequence[Key]]) -> int:
    """Keys of a chain that no other chain holds. Keys are chained, so what is shared is always a prefix."""
    longest = max((shared(chain, other) for group in groups for other in group), default=0)
    return len(chain) - longest
