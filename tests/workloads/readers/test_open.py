import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from agentcache.errors import ConfigError, InputError
from agentcache_workloads.readers.formats.mooncake import Mooncake
from agentcache_workloads.readers.open import open_trace, sniff, with_blocks
from agentcache_workloads.readers.parts.build import Chains
from agentcache_workloads.readers.parts.records import Skips
from agentcache_workloads.readers.trace import Session
from agentcache_workloads.readers.writers.agentkv_writer import write_trace
from agentcache_workloads.replay.jobs.plan import load_plan
from agentcache_workloads.replay.spec import Selection

SAMPLES = Path(__file__).parent / "samples"
BFCL = "bfcl/BFCL_v4_multi_turn_made.json"
FORMS = {
    "mooncake.jsonl": "mooncake",
    "mooncake_sessions.jsonl": "mooncake",
    "bailian.jsonl": "bailian",
    "tracelab.csv": "tracelab",
    "openai_chat.jsonl": "openai-chat",
    "weka.json": "weka",
    "weka.jsonl": "weka",
    BFCL: "bfcl",
}


def read(name: str, form: str | None = None, **options: object) -> dict[str, Session]:
    meta, stream = open_trace(SAMPLES / name, form, **options)  # type: ignore[arg-type]
    sessions = {session.sid: session for session in stream}
    assert (meta.n_sessions, meta.n_calls) == (len(sessions), sum(len(s.calls) for s in sessions.values()))
    return sessions


@pytest.mark.parametrize(("name", "form"), FORMS.items())
def test_a_file_is_known_by_its_look(name: str, form: str) -> None:
    assert sniff(SAMPLES / name) == form


def test_what_looks_like_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello\n")
    with pytest.raises(InputError, match="looks like no known format"):
        sniff(tmp_path / "x")
    with pytest.raises(ConfigError, match="--format is 'nonsense'"):
        open_trace(tmp_path / "x", "nonsense")


@pytest.mark.parametrize(("name", "form"), [*FORMS.items(), ("timed_trace.jsonl", "timed-trace")])
@pytest.mark.parametrize("to", ["t.jsonl", "t.jsonl.zst"])
def test_every_format_survives_being_written_as_agentkv(tmp_path: Path, name: str, form: str, to: str) -> None:
    meta, stream = open_trace(SAMPLES / name, form)
    sessions = list(stream)
    assert write_trace(tmp_path / to, meta, iter(sessions)) == (meta.n_sessions, meta.n_calls)
    head, again = open_trace(tmp_path / to)
    assert (head.name, head.block_size, head.tail_hashed) == (meta.name, meta.block_size, meta.tail_hashed)
    for a, b in zip(sessions, again, strict=True):
        assert (a.sid, a.parent, a.arrival_s, a.recorded_dur_s) == (b.sid, b.parent, b.arrival_s, b.recorded_dur_s)
        for x, y in zip(a.calls, b.calls, strict=True):
            assert dataclasses.replace(x, record={}) == dataclasses.replace(y, record={})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mooncake.jsonl", {"link": True, "pauses": "const:1"}),
        ("mooncake_sessions.jsonl", {"pauses": "cycle:1"}),
        ("timed_trace.jsonl", {"form": "timed-trace"}),
        ("bailian.jsonl", {"pauses": "cycle:2"}),
        ("tracelab.csv", {}),
        ("openai_chat.jsonl", {}),
        ("weka.jsonl", {}),
        (BFCL, {"pauses": "lognormal:0,1"}),
    ],
)
def test_every_format_can_be_replayed(name: str, options: dict[str, object]) -> None:
    plan = load_plan(SAMPLES / name, Selection(**options))  # type: ignore[arg-type]
    assert plan.meta.block_size
    assert all(turn.call.enc == "blocks" for job in plan.jobs for turn in job.turns)


def test_mooncake_rows_are_jobs_of_their_own() -> None:
    sessions = list(read("mooncake.jsonl").values())
    assert [session.arrival_s for session in sessions] == [0.0, 3.0, 10.535, 27.482, 27.482]
    assert [session.calls[0].items for session in sessions][1] == (46, 49)
    assert {(c.in_tok, c.out_tok) for s in sessions for c in s.calls} >= {(1100, 52), (300, 1)}


def test_mooncake_rows_that_extend_each_other_can_be_linked() -> None:
    sessions = read("mooncake.jsonl", link=True)
    assert [len(session.calls) for session in sessions.values()] == [1, 3, 1]
    linked = next(session for session in sessions.values() if len(session.calls) == 3)
    assert [call.record.get("cycle_s") for call in linked.calls] == [None, 10.535, 16.947]


def test_mooncake_sessions_and_delays() -> None:
    sessions = read("mooncake_sessions.jsonl")
    a, b = sessions["a"], sessions["b"]
    assert (a.arrival_s, b.arrival_s) == (0.0, 1.5)
    assert [call.delay_s for call in a.calls] == [0.0, 2.5, 0.0]
    assert (b.calls[1].delay_s, b.calls[1].record["cycle_s"]) == (None, 7.5)


def test_mooncake_lines_of_lengths_add_to_their_session(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    lines = [
        {"session_id": "a", "input_length": 300, "output_length": 40},
        {"session_id": "a", "delay": 2, "input_length": 150, "output_length": 20},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    [session] = open_trace(path)[1]
    assert [(call.in_tok, call.delay_s) for call in session.calls] == [(300, 0.0), (490, 0.002)]
    meta, made = with_blocks(*open_trace(path))
    first, second = next(made).calls
    assert (meta.block_size, first.items, second.items) == (64, (1, 2, 3, 4), (1, 2, 3, 4, 5, 6, 7))
    path.write_text(json.dumps({**lines[0], "context_mode": "deltas_without_responses"}))
    with pytest.raises(InputError, match="context_mode is"):
        open_trace(path)


def test_blocks_of_another_size_are_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"timestamp": 0, "input_length": 640, "output_length": 1, "hash_ids": list(range(10))}))
    with pytest.raises(InputError, match="10 block ids for 640 prompt tokens, expected about 2 of 512") as error:
        open_trace(path)
    assert "--block-size" in (error.value.hint or "")
    assert open_trace(path, block_size=64)[0].block_size == 64


def test_timed_trace_ids_name_content_and_become_chains() -> None:
    one, two, three = (session.calls[0].items for session in read("timed_trace.jsonl", "timed-trace").values())
    assert one == (1, 2, 3)
    assert two == (1, 2, 4)
    assert not {*one, *two} & {*three}  # the same ids at other places


def test_bailian_chats_branch() -> None:
    chat = read("bailian.jsonl")["chat-159"]
    assert [call.after for call in chat.calls] == [None, 0, 0, 1]
    assert [call.record.get("cycle_s") for call in chat.calls] == [None, 29.136, 33.886, 39.75]
    assert chat.arrival_s == 61.114
    assert "chat-55" in read("bailian.jsonl")  # its root is not in the file


def test_tracelab_lengths_and_their_blocks() -> None:
    sessions = read("tracelab.csv")
    assert [call.delay_s for call in sessions["0"].calls] == [0.0, 0.3, 0.154]
    assert [call.in_tok for call in sessions["0"].calls] == [2318, 2866, 3412]
    assert sessions["1"].arrival_s == 0.393
    meta, made = with_blocks(*open_trace(SAMPLES / "tracelab.csv"))
    calls = next(s for s in made if s.sid == "0").calls
    assert meta.block_size == 64
    assert [len(call.items or ()) for call in calls] == [2318 // 64, 2866 // 64, 3412 // 64]
    assert calls[1].items[: 2518 // 64][: 2318 // 64] == calls[0].items  # type: ignore[index]
    assert calls[2].items[: 2600 // 64] == calls[1].items[: 2600 // 64]  # type: ignore[index]
    assert calls[2].items[2600 // 64] != calls[1].items[2600 // 64]  # type: ignore[index]


def test_chat_logs_find_their_sessions_and_pauses() -> None:
    job, other = sorted(read("openai_chat.jsonl").values(), key=lambda session: -len(session.calls))
    assert [call.delay_s for call in job.calls] == [0.0, 3.5]
    assert [(call.in_tok, call.out_tok) for call in job.calls] == [(25, 17), (60, 6)]
    assert (job.calls[0].stop, job.calls[0].tools, job.calls[1].delay_kind) == ("tool_use", ("bash",), "tool")
    assert (other.arrival_s, other.calls[0].out_tok, other.calls[0].record["tok_est"]) == (1.0, 64, True)


def test_weka_retries_merge_and_sub_agents_are_sessions() -> None:
    sessions = read("weka.json")
    root, child = sessions["trace_0001"], sessions["trace_0001.sub0"]
    assert [call.in_tok for call in root.calls] == [700, 900, 1280, 1500]
    assert [call.delay_s for call in root.calls] == [0.0, 1.0, 13.0, 65.0]
    assert (root.calls[0].out_tok, root.calls[0].api_s, root.calls[0].t_s) == (90, 8.0, 0.0)
    assert root.calls[1].spawn == (child.sid,)
    assert child.parent is not None
    assert (child.parent.sid, child.parent.turn, child.parent.offset_s) == (root.sid, 1, 1.0)
    assert child.span_s == 8.0
    assert child.calls[0].items[0] != root.calls[0].items[0]  # type: ignore[index]  # another model
    assert root.calls[3].items[:20] == root.calls[2].items  # type: ignore[index]
    assert not set(root.calls[3].items[20:]) & set(root.calls[2].items)  # type: ignore[index, arg-type]


def test_weka_reads_folders_and_lines_alike(tmp_path: Path) -> None:
    for number, text in enumerate((SAMPLES / "weka.jsonl").read_text().splitlines()):
        (tmp_path / f"trace_{number}.json").write_text(text)
    lines = read("weka.jsonl")
    assert {s.sid: s.calls for s in open_trace(tmp_path)[1]} == {sid: s.calls for sid, s in lines.items()}
    assert [call.delay_s for call in lines["trace_0002"].calls] == [0.0, 4.0]  # no api_time: think_time
    shared = {i for c in lines["trace_0001"].calls for i in c.items or ()} & {
        i for c in lines["trace_0002"].calls for i in c.items or ()
    }
    assert not shared  # ids are local to a session


def test_bfcl_tasks_call_the_tools_of_their_answers(tmp_path: Path) -> None:
    first, second = read(BFCL).values()
    assert [call.tools for call in first.calls] == [("mkdir",), ("mv",), (), ("grep",), ()]
    assert [call.delay_kind for call in first.calls] == ["start", "tool", "tool", "user", "tool"]
    assert first.calls[0].items[0]["role"] == "system"  # type: ignore[index]
    assert len(second.calls) == 2
    shutil.copy(SAMPLES / BFCL, tmp_path / "alone.json")
    assert [len(s.calls) for s in open_trace(tmp_path / "alone.json")[1]] == [2, 1]


@pytest.mark.parametrize("name", [name for name in FORMS if not name.startswith(("tracelab", "weka.json"))])
def test_what_is_broken_is_named_or_skipped(tmp_path: Path, name: str) -> None:
    lines = (SAMPLES / name).read_text().splitlines()
    path = tmp_path / Path(name).name
    path.write_text("\n".join([lines[0], lines[1][:-20], *lines[2:]]))
    with pytest.raises(InputError, match=f"{path.name}, line 2: broken JSON"):
        list(open_trace(path)[1])
    skips = Skips()
    kept = list(open_trace(path, skips=skips)[1])
    assert skips.count >= 1
    assert "line 2" in skips.first[0]
    assert sum(len(session.calls) for session in kept) >= 1


def test_a_lenient_reading_of_agentkv_leaves_whole_sessions_out(tiny: Path, tmp_path: Path) -> None:
    lines = tiny.read_text().splitlines()
    lines[3] = lines[3].replace('"in_tok":', '"in_tok":-')
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(lines))
    skips = Skips()
    everything = [session.sid for session in open_trace(tiny)[1]]
    assert [session.sid for session in open_trace(path, skips=skips)[1]] == everything[1:]
    assert "in_tok is -" in skips.first[0]


def test_chained_ids_commit_to_what_stands_before() -> None:
    chains = Chains()
    assert chains((7, 8)) == (1, 2)
    assert chains((8, 7)) == (3, 4)
    assert chains((7, 8, 7)) == (1, 2, 5)
    assert chains((7,), "another model") == (6,)


def test_sessions_come_before_the_file_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    line = {"input_length": 600, "output_length": 1, "hash_ids": [1, 2]}
    path.write_text("\n".join(json.dumps({**line, "session_id": i // 2, "timestamp": i}) for i in range(2000)))
    reader = Mooncake(path)
    _, sessions = reader.read()
    assert [len(next(sessions).calls) for _ in range(3)] == [2, 2, 2]
    assert reader.line == 6
