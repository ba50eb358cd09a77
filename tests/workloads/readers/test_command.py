import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agentcache.cli.main import app
from agentcache.errors import InputError
from agentcache_workloads.readers.open import open_trace

SAMPLES = Path(__file__).parent / "samples"


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["trace", *map(str, args)])


def told(*args: object) -> Any:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_info_tells_what_a_trace_holds(tiny: Path) -> None:
    found = told("info", tiny)
    assert (found["format"], found["sessions"], found["sub_agents"], found["calls"]) == ("agentkv", 6, 2, 64)
    assert found["notes"] == ["no arrival times: replay in a closed loop, or with poisson:JPS"]
    assert 50 < found["infinite_hit_percent"] < 100
    assert "calls" in run("info", tiny).stdout


def test_info_counts_reuse_by_hand() -> None:
    found = told("info", SAMPLES / "mooncake.jsonl")
    # whole blocks seen before: one of 655, two of 1700, three of 2300 tokens
    assert found["infinite_hit_percent"] == round(100 * 6 * 512 / (1100 + 655 + 1700 + 2300 + 300), 2)
    assert found["prompt_tokens"] == {"total": 6055, "mean": 1211.0, "p50": 1100, "p90": 2300, "p99": 2300, "max": 2300}


def test_validate_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    good = (SAMPLES / "mooncake.jsonl").read_text()
    path.write_text(good.replace('"input_length": 655', '"input_length": -655'))
    assert "5 sessions, 5 calls" in run("validate", SAMPLES / "mooncake.jsonl").stdout
    result = run("validate", path)
    assert result.exit_code == 2
    assert "line 2: input_length is -655, expected a whole number >= 0" in result.stderr
    result = run("validate", path, "--lenient", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout) | {"reasons": []} == {
        "format": "mooncake",
        "sessions": 4,
        "calls": 4,
        "skipped": 1,
        "reasons": [],
    }


def test_convert_there_and_back(tmp_path: Path, tiny: Path) -> None:
    found = told("convert", tiny, tmp_path / "m.jsonl", "--to", "mooncake")
    assert (found["calls"], found["parents"], found["block_size"]) == (64, 2, 64)
    assert "context_mode" not in (tmp_path / "m.jsonl").read_text()
    told("convert", tiny, tmp_path / "m.jsonl", "--to", "mooncake", "--context-mode")
    assert (tmp_path / "m.jsonl").read_text().count('"context_mode":"message_array_with_responses"') == 64
    told("convert", tmp_path / "m.jsonl", tmp_path / "a.jsonl.zst", "--block-size", 64)
    before = {session.sid: session for session in open_trace(tiny)[1]}
    for session in open_trace(tmp_path / "a.jsonl.zst")[1]:
        for a, b in zip(before[session.sid].calls, session.calls, strict=True):
            assert b.items[: b.in_tok // 64] == a.items[: a.in_tok // 64]  # type: ignore[index]
            assert (a.in_tok, a.out_tok, a.delay_s) == (b.in_tok, b.out_tok, b.delay_s)


def test_convert_fills_in_pauses_and_blocks(tmp_path: Path) -> None:
    target = tmp_path / "b.jsonl"
    told("convert", SAMPLES / "bfcl/BFCL_v4_multi_turn_made.json", target, "--pauses", "const:2", "--blocks")
    meta, sessions = open_trace(target)
    assert meta.block_size == 64
    assert [call.delay_s for call in next(sessions).calls] == [0.0, 2.0, 2.0, 2.0, 2.0]


def test_cut_takes_any_format(tmp_path: Path) -> None:
    found = told(
        "cut", SAMPLES / "weka.jsonl", tmp_path / "c.jsonl", "--sessions", 1, "--max-calls", 2, "--min-calls", 3
    )
    assert (found["sessions"], found["calls"]) == (2, 4)  # with its sub-agent
    assert next(open_trace(tmp_path / "c.jsonl")[1]).sid == "trace_0001"


def test_what_cannot_be_done_is_said(tmp_path: Path, tiny: Path) -> None:
    assert "known: agentkv, mooncake" in run("convert", tiny, tmp_path / "x", "--to", "csv").stderr
    result = run("info", tmp_path / "none")
    assert (result.exit_code, "No such file" in result.stderr) == (2, True)
    assert run("info").exit_code == 2
    assert "validate" in run("--help").stdout
    with pytest.raises(InputError):
        list(open_trace(tmp_path)[1])  # an empty folder
