"""Results on disk: which runs of an interrupted replay need not be made again, and where one of them stopped."""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from agentcache.errors import ConfigError
from agentcache.files import write_whole
from agentcache_workloads.replay.result import RunResult
from agentcache_workloads.replay.spec import RunSpec

_LATER = ("host_memory",)
"""Fields of a run that are younger than results on disk: unused, they leave the names of those as they are."""


class Stopped(msgspec.Struct, frozen=True):
    """A run that was interrupted: which, and all that it had."""

    run: str
    result: RunResult


def name_of(spec: RunSpec, trace_sha256: str) -> str:
    """The name of a run: equal for equal specs of equal traces, wherever the file lies."""
    same = msgspec.to_builtins(msgspec.structs.replace(spec, trace=trace_sha256, watch=False))
    for name in _LATER:
        if same[name] is None:
            del same[name]
    return sha256(msgspec.json.encode(same)).hexdigest()[:16]


def stopped_path(path: Path) -> Path:
    """The file beside a result that keeps the calls of an interrupted run."""
    return path.with_name(f"{path.name}.stopped")


def load_saved(path: Path, names: Sequence[str]) -> tuple[dict[str, dict[str, Any]], Stopped | None]:
    """The complete runs of a result by name, and the one that was interrupted, if its calls were kept.

    Nothing where there is no file. Raises `ConfigError` for a file of something else, or of other runs.
    """
    if not path.exists():
        return {}, None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        runs = {run["run"]: run for run in result["runs"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"--resume: {path} holds no result of a replay ({error!r}); nothing was started", hint="name another file"
        ) from error
    if others := sorted(set(runs) - set(names)):
        raise ConfigError(
            f"--resume: {path} holds {len(others)} runs that these flags would not make; nothing was started",
            hint="repeat the flags of the first attempt, or name another file",
        )
    stopped = None
    if stopped_path(path).exists():
        try:
            stopped = msgspec.json.decode(stopped_path(path).read_bytes(), type=Stopped)
        except msgspec.MsgspecError:
            stopped = None  # its run is made again, whole
    return {name: run for name, run in runs.items() if not run.get("interrupted")}, stopped


def keep(path: Path, stopped: Stopped | None) -> None:
    """Keep an interrupted run beside its result, or drop what was kept."""
    if stopped is None:
        stopped_path(path).unlink(missing_ok=True)
    else:
        write_whole(stopped_path(path), msgspec.json.encode(stopped), "its calls are lost")
