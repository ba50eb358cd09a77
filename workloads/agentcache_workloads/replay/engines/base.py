"""The protocol of an engine of the replayer: what it is asked before a run, and the run."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from agentcache.cost.profile import CostProfile
from agentcache.errors import ConfigError, InputError
from agentcache_workloads.replay.engines.http.server import Server
from agentcache_workloads.replay.jobs.render import FIRST_TOKEN
from agentcache_workloads.replay.spec import Remote, RunResult, RunSpec, Selection

MODEL = "demo-llama"
BLOCK_SIZE = 32
STOCK_ADMISSION = "fcfs"


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for, as the flags of `agentcache replay` say it; None: left to the engine.

    `server`: what a server said of itself, once it was asked.
    """

    trace: Path
    engine: str = "vllm"
    policies: str | None = None
    admission: str = STOCK_ADMISSION
    selection: Selection = field(default_factory=Selection)
    slots: int = 8
    arrival: str = "closed"
    cache_tokens: int | None = None
    tokens_per_block: int | None = None
    time_scale: float = 1.0
    seeds: str = "1"
    hints: bool = True
    model: str | None = None
    dtype: str = "float32"
    block_size: int | None = None
    max_batched_tokens: int = 512
    profile: Path | None = None
    mode: str = "fused"
    json: Path | None = None
    html: Path | None = None
    chunking: str = "off"
    remote: Remote | None = None
    vocab_size: int | None = None
    server: Server | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What the jobs run on: `max_tokens` of a context (None: no limit), and the profile that prices it, if any."""

    model: str
    vocab_size: int
    max_tokens: int | None
    profile: CostProfile | None
    profile_name: str | None


class Engine(Protocol):
    """What runs the turns of jobs: a module of this package, by its name in `table`.

    First it takes a user's options (`adopt`) and finds what they run on (`target`); nothing is started or written
    then. Each `run` is of one policy and one seed, and owes nothing to the runs before it.
    """

    FORESIGHT: frozenset[str]
    """What it tells a policy of the future where requests carry hints; such a run is an oracle's, and marked."""

    CHOOSES_POLICY: bool
    """Whether it runs the policies that it is given; a server runs the one with which it was started."""

    def adopt(self, options: Options) -> Options:
        """The options, with what the engine says itself filled in. Raises `ConfigError` for what it cannot do."""

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


def without_server(options: Options) -> None:
    """Raise `ConfigError` for the URL of a server, where the engine is none."""
    if options.remote:
        raise misfit(options)


def misfit(options: Options) -> ConfigError:
    """An engine and a URL that do not go together."""
    return ConfigError(
        f"--engine is {options.engine}, and there is {'a' if options.remote else 'no'} --url; nothing was started",
        hint="--engine http --url http://127.0.0.1:8000 drives a server that runs already",
    )
