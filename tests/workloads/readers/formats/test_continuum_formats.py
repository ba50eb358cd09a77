"""The three formats of Continuum's forks: read, written where that says something, refused where it would guess."""

import gzip
import json
import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcache.errors import InputError
from agentcache_workloads.readers.formats.agentkv import read_trace
from agentcache_workloads.readers.formats.continuum_steps import read_step_events, read_steps, write_steps
from agentcache_workloads.readers.formats.continuum_timestamps import read_timestamps
from agentcache_workloads.readers.formats.swe_smith import read_swe_smith, write_swe_smith
from agentcache_workloads.readers.writers.agentkv_writer import write_trace
from agentcache_workloads.replay.jobs.jobs import build_job


def round_trip(tmp_path: Path, read: Any) -> list[Any]:
    """What our own format keeps of a trace."""
    meta, sessions = read
    write_trace(tmp_path / "again.jsonl", meta, sessions)
    return list(read_trace(tmp_path / "again.jsonl")[1])


# scheduler_timestamps


def turn(at: float, length: int, end: float, hit: int = 0) -> list[dict[str, Any]]:
    return [
        {"Request_arrival_time": at},
        {"waiting_to_running": at + 0.1, "prompt_length": length, "hit_length": hit},
        {"Request_evicted_from_running_queue_time": at + 0.2},
        {"evicted_to_running": at + 0.3, "prompt_length": length + 9, "hit_length": 1},
        {"pinned_time": end},
        {"Request_departure_time": end},
        {"unpinned_time": end + 9},
    ]


def saved(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "scheduler_timestamps"
    path.write_text(json.dumps(content))
    return path


def test_timestamps_become_pauses_service_times_and_growing_prompts(tmp_path: Path) -> None:
    path = saved(
        tmp_path, {"a": turn(1000.0, 100, 1002.0) + turn(1005.5, 200, 1006.0, 96), "b": turn(1001.0, 40, 1003)}
    )
    a, b = round_trip(tmp_path, read_timestamps(path))
    assert [(c.delay_s, c.in_tok, c.api_s, c.t_s) for c in a.calls] == [(0.0, 100, 2.0, 0.0), (3.5, 200, 0.5, 5.5)]
    assert a.calls[1].items[:6] == a.calls[0].items
    assert not set(a.calls[1].items) & set(b.calls[0].items)
    assert a.calls[1].record["rec"]["hit_length"] == 96
    assert (a.arrival_s, b.arrival_s) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"j": turn(1, 9, 5) + turn(4, 9, 6)}, "turn 1 of job 'j' arrives 1.000 s before"),
        ({"j": [*turn(1, 9, 5)[:2], *turn(2, 9, 6)]}, "overlapping turns"),
        ({"null": turn(1, 9, 5)}, "all clients that named no job"),
        ({"j": [{"Request_arrival_time": "soon"}]}, "expected epoch seconds"),
        ({"j": [{"Request_arrival_time": 1}, {"waiting_to_running": 1, "prompt_length": -1}]}, "expected tokens"),
        ({"j": ["x"]}, "expected epoch seconds"),
        ([1], "no object of lists"),
    ],
)
def test_timestamps_that_would_have_to_be_guessed_are_refused(tmp_path: Path, content: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_timestamps(saved(tmp_path, content))


def test_a_turn_that_never_departed_is_left_out(tmp_path: Path) -> None:
    _, sessions = read_timestamps(saved(tmp_path, {"a": turn(1, 32, 2) + turn(3, 64, 4)[:3], "b": turn(1, 32, 2)[:1]}))
    assert [len(session.calls) for session in sessions] == [1]


# SWE-smith


def smith() -> list[dict[str, Any]]:
    calls = [
        {"function": {"name": "bash", "arguments": "{}"}, "execution_time_seconds": 0.5},
        {"function": {"name": "edit", "arguments": "{}"}, "execution_time_seconds": 2.5},
    ]
    messages = [
        {"role": "system", "content": "s" * 400},
        {"role": "user", "content": "u" * 40},
        {"role": "assistant", "content": "a" * 80, "tool_calls": calls},
        {"role": "tool", "content": "t" * 120},
        {"role": "assistant", "content": "done"},
    ]
    return [{"messages": json.dumps(messages), "instance_id": "i", "traj_id": "i.1", "model": "m", "resolved": True}]


def test_swe_smith_has_a_call_an_answer_and_the_slowest_tool_s_pause(tmp_path: Path) -> None:
    path = tmp_path / "smith.json"
    path.write_text(json.dumps(smith()))
    (session,) = round_trip(tmp_path, read_swe_smith(path))
    assert [(c.delay_s, c.tools, c.stop, len(c.items)) for c in session.calls] == [
        (0.0, ("bash", "edit"), "tool_use", 2),
        (2.5, (), "end_turn", 4),
    ]
    assert session.calls[0].in_tok == 110
    write_swe_smith(tmp_path / "back.json", read_swe_smith(path)[1])
    (back,) = read_swe_smith(tmp_path / "back.json")[1]
    (once,) = read_swe_smith(path)[1]
    assert [(c.items[:2], c.delay_s, c.tools) for c in back.calls] == [
        (c.items[:2], c.delay_s, c.tools) for c in once.calls
    ]


@pytest.mark.parametrize("wrong", ["{", "{}", "[1]", '[{"messages": "["}]', '[{"messages": [1]}]'])
def test_swe_smith_that_is_none_is_refused(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "smith.json"
    path.write_text(wrong)
    with pytest.raises(InputError):
        read_swe_smith(path)


def test_a_negative_execution_time_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "smith.json"
    path.write_text(json.dumps(smith()).replace("2.5", "-2.5"))
    with pytest.raises(InputError, match="expected seconds >= 0"):
        read_swe_smith(path)


# Steps

STEPS = [
    {"prompt": [1, 2, 3], "output": [4], "gap": 1.5, "tool": "ls", "accepted": True, "turn": 0, "attempt": 0},
    {"prompt": [1, 2, 3, 4, 5], "output": [9, 9], "gap": 0.5, "tool": None, "accepted": False, "turn": 1, "attempt": 0},
    {"prompt": [1, 2, 3, 4, 5], "output": [6], "gap": 0.0, "tool": None, "accepted": True, "turn": 1, "attempt": 1},
]


def pickled(tmp_path: Path, jobs: Any) -> Path:
    path = tmp_path / "steps.pkl.gz"
    path.write_bytes(gzip.compress(pickle.dumps(jobs)))
    return path


def test_a_step_that_was_not_accepted_is_a_branch(tmp_path: Path) -> None:
    path = pickled(tmp_path, [{"instance_id": "j", "steps": STEPS}])
    root, branch = round_trip(tmp_path, read_steps(path))
    assert [call.items for call in root.calls] == [(1, 2, 3), (1, 2, 3, 4, 5)]
    assert (branch.parent.sid, branch.parent.turn, branch.parent.offset_s) == ("j", 0, 1.5)
    job = build_job(root, {"j": root, branch.sid: branch})
    assert [(turn.context, turn.after, turn.pause_s) for turn in job.turns] == [
        ("j", (), 0.0),
        ("j~0", (0,), 1.5),
        ("j", (0, 1), 0.5),
    ]


def test_steps_are_written_with_their_hash_and_read_again(tmp_path: Path) -> None:
    path = pickled(tmp_path, [{"instance_id": "j", "steps": [STEPS[0], STEPS[2]]}])
    _, sessions = read_steps(path)
    write_steps(tmp_path / "out.pkl.gz", list(sessions))
    again = pickle.loads(gzip.decompress((tmp_path / "out.pkl.gz").read_bytes()))
    assert [(s["prompt"], s["output"], s["gap"], s["tool"]) for s in again[0]["steps"]] == [
        ([1, 2, 3], [4], 1.5, "ls"),
        ([1, 2, 3, 4, 5], [6], 0.0, None),
    ]
    assert [session.sid for session in read_steps(tmp_path / "out.pkl.gz")[1]] == ["j"]
    with (tmp_path / "out.pkl.gz").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(InputError, match="SHA-256 differs"):
        read_steps(tmp_path / "out.pkl.gz")


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("echo no",)


def test_a_pickle_that_names_anything_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="only plain values"):
        read_steps(pickled(tmp_path, [Evil()]))
    assert capfd.readouterr().out == ""


@given(junk=st.binary(max_size=60))
def test_broken_steps_say_so(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.gz"
    path.write_bytes(gzip.compress(junk))
    with suppress(InputError):
        list(read_steps(path)[1])


def test_step_events_are_messages(tmp_path: Path) -> None:
    ask = {"role": "user", "content": "u" * 40}
    events = [
        {
            "request": {"messages": [ask]},
            "response": {"content": "x" * 8},
            "tool": {"command": "git diff"},
            "tool_duration_ms": 250,
            "accepted_into_context": True,
        },
        {"request.messages": [ask, ask], "response.content": "y", "tool.command": None, "tool_duration_ms": None},
    ]
    path = tmp_path / "traces.jsonl"
    path.write_text(json.dumps({"instance_id": "j", "events": events}) + "\n")
    (session,) = round_trip(tmp_path, read_step_events(path))
    assert [(c.delay_s, c.tools, c.in_tok, c.out_tok) for c in session.calls] == [
        (0.0, ("git",), 10, 2),
        (0.25, (), 20, 1),
    ]
    path.write_text('{"instance_id": "j"}\n')
    with pytest.raises(InputError, match="line 1 is no job"):
        read_step_events(path)
