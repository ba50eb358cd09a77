"""The protocol of an engine of the replayer: what it is asked before a run, and the run."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from agentcache.cost.profile import CostProfile
from agentcache.errors import ConfigError, InputError
from agentcache_workloads.replay.jobs.render import FIRST_TOKEN
from agentcache_workloads.replay.result import RunResult
from agentcache_workloads.replay.spec import Options, RunSpec


@dataclass(frozen=True, slots=True)
class Target:
    """What the jobs run on: `max_tokens` of a context (None: no limit), and the profile that prices it, if any."""

    model: str
    vocab_size: int
    max_tokens: int | None
    profile: CostProfile | None
    profile_name: str | None


class ReplayEngine(Protocol):
    """What runs the turns of jobs: a module of this package, by its name in `table`.

    First it takes a user's options (`adopt`) and finds what they run on (`target`); nothing is started or written
    then. Each `run` is of one policy and one seed, and owes nothing to the runs before it.
    """

    FORESIGHT: frozenset[str]
    """What it tells a policy of the future where requests carry hints; such a run is an oracle's, and marked."""

    SERVED: bool
    """Whether it is a server that runs already: it is given by a URL, and runs the policy with which it was started."""

    def adopt(self, options: Options) -> Options:
        """The options, with what the engine says itself filled in. Raises `ConfigError` for what contradicts it."""

    def target(self, options: Options) -> Target:
        """What adopted options run on. Raises `ConfigError` or `InputError`."""

    def run(self, spec: RunSpec, advance: Callable[[int], None], before: RunResult | None = None) -> RunResult:
        """Run a spec to its end; `advance` hears how many calls have ended. Times are seconds since the run's start.

        `before`: the first part of the same run, if it was interrupted; an engine may make the run again, whole.
        Raises `EngineError` where the engine fails, `CheckFailed` where a count does not hold.
        """


def warn(what: str) -> None:
    """Say on stderr what a run goes on without."""
    print(f"warning: {what}", file=sys.stderr)


def vocabulary(folder: str, config: dict[str, Any]) -> int:
    vocabulary = config.get("vocab_size")
    if not isinstance(vocabulary, int) or vocabulary <= FIRST_TOKEN:
        raise InputError(
            f"{folder}/config.json has vocab_size {vocabulary!r}, expected a whole number > {FIRST_TOKEN}; "
            "nothing was started"
        )
    return vocabulary


def model_config(folder: str) -> dict[str, Any]:
    """The configuration of a model's text part."""
    config: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    text: dict[str, Any] = config.get("text_config") or config
    return text


def one_of(flag: str, value: str, available: Sequence[str]) -> None:
    if value not in available:
        raise ConfigError(
            f"{flag} {value!r} is not available; nothing was started", hint=f"available: {', '.join(available)}"
        )
