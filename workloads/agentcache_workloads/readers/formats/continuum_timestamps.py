"""Reader of `scheduler_timestamps`, the file that Continuum's preview writes when its server is shut down."""

import json
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

from agentcache.errors import InputError
from agentcache_workloads.readers.parts.build import make_call, make_session, make_trace
from agentcache_workloads.readers.trace import Meta, Session, TraceCall

BLOCK = 16
ARRIVAL, DEPARTURE = "Request_arrival_time", "Request_departure_time"
_STARTS = ("waiting_to_running", "evicted_to_running")
_NOTES = (
    "Output lengths are unknown: out_tok is 1. Prompts are taken to extend each other: block ids follow from their "
    "lengths. `rec.hit_length` is what that server's cache found."
)


def read_timestamps(path: str | Path) -> tuple[Meta, Iterator[Session]]:
    """Read the jobs of a file; pauses run from a departure to the next arrival.

    Raises `InputError` for a file that is none, a job without a name, and one whose turns overlap: the file does not
    say which event belongs to which.
    """
    try:
        jobs = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as scheduler_timestamps: {error}; nothing was done") from error
    if not isinstance(jobs, dict) or not all(isinstance(events, list) for events in jobs.values()):
        raise InputError(f"{path} is no object of lists of events, as scheduler_timestamps is; nothing was done")
    sessions, new_ids = [], count(1)
    begin = min((_time(path, job, e, ARRIVAL) for job, events in jobs.items() for e in events[:1]), default=0.0)
    for job, events in jobs.items():
        if job in ("null", "None", ""):
            raise InputError(
                f"{path}: job {job!r} has the turns of all clients that named no job, which cannot be told apart; "
                "nothing was done",
                hint="remove it from the file",
            )
        calls, arrived_s = _calls(path, job, events, new_ids)
        if calls:
            sessions.append(make_session(job, calls, agent="continuum", arrival_s=arrived_s - begin))
    return make_trace(Path(path).stem, sessions, BLOCK, "scheduler_timestamps", arrival="recorded", notes=_NOTES)


def _calls(path: str | Path, job: str, events: list[Any], new_ids: Iterator[int]) -> tuple[list[TraceCall], float]:
    """The turns of a job, and when the first of them arrived."""
    calls: list[TraceCall] = []
    ids: tuple[int, ...] = ()
    departed = first_s = 0.0
    for turn, (arrival, departure, length, hit) in enumerate(_turns(path, job, events)):
        first_s = first_s if calls else arrival
        pause_s = arrival - departed if calls else 0.0
        if pause_s < 0:
            raise InputError(
                f"{path}: turn {turn} of job {job!r} arrives {-pause_s:.3f} s before the one before it departs; "
                "the file does not tell overlapping turns apart, so nothing was done",
                hint="remove the job from the file",
            )
        departed = departure
        keep = min(len(ids), length // BLOCK)
        ids = ids[:keep] + tuple(islice(new_ids, length // BLOCK - keep))
        after, kind = (turn - 1, "tool") if turn else (None, "start")
        call = make_call(
            turn,
            after=after,
            delay_s=pause_s,
            kind=kind,
            in_tok=length,
            out_tok=1,
            enc="blocks",
            items=ids,
            stop="tool_use",
            t_s=arrival - first_s,
            api_s=departure - arrival,
            rec={"hit_length": hit},
        )
        calls.append(call)
    return calls, first_s


def _turns(path: str | Path, job: str, events: list[Any]) -> Iterator[tuple[float, float, int, int]]:
    """Arrival, departure, prompt length and hit length of each turn; one that never departed is left out."""
    arrival: float | None = None
    length = hit = 0
    for event in events:
        if not isinstance(event, dict):
            raise InputError(f"{path}: job {job!r} has the event {event!r}, expected an object; nothing was done")
        if ARRIVAL in event:
            if arrival is not None:
                raise InputError(
                    f"{path}: a turn of job {job!r} arrives before the one before it departs; the file does not tell "
                    "overlapping turns apart, so nothing was done",
                    hint="remove the job from the file",
                )
            arrival, length, hit = _time(path, job, event, ARRIVAL), 0, 0
        elif any(name in event for name in _STARTS) and not length:
            length, hit = (_length(path, job, event, name) for name in ("prompt_length", "hit_length"))
        elif DEPARTURE in event and arrival is not None:
            if length:
                yield arrival, _time(path, job, event, DEPARTURE), length, hit
            arrival = None


def _time(path: str | Path, job: str, event: Any, name: str) -> float:
    value = event.get(name) if isinstance(event, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise InputError(f"{path}: job {job!r}: {name} is {value!r}, expected epoch seconds; nothing was done")
    return float(value)


def _length(path: str | Path, job: str, event: dict[str, Any], name: str) -> int:
    value = event.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise InputError(f"{path}: job {job!r}: {name} is {value!r}, expected tokens; nothing was done")
    return value
