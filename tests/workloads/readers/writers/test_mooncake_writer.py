import json
from pathlib import Path

from agentcache_workloads.readers.open import open_trace
from agentcache_workloads.readers.writers.mooncake_writer import write_mooncake

LINES = [
    {"session_id": "a", "timestamp": 1000, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]},
    {"session_id": "b", "timestamp": 2500, "input_length": 512, "output_length": 5, "hash_ids": [3]},
    {"session_id": "a", "timestamp": 4000, "input_length": 1100, "output_length": 5, "hash_ids": [1, 4, 5]},
    {"session_id": "a", "timestamp": 9000, "input_length": 1100, "output_length": 5, "hash_ids": [1, 4, 6]},
]


def test_times_from_start_to_start_stay_timestamps(tmp_path: Path) -> None:
    source, written = tmp_path / "source.jsonl", tmp_path / "written.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    meta, sessions = open_trace(source)
    lost = write_mooncake(written, meta, sessions)
    kept = [json.loads(line) for line in written.read_text().splitlines()]
    assert (lost.sessions, lost.calls, lost.unknown_pauses) == (2, 4, 2)
    assert sorted((line["session_id"], line["timestamp"]) for line in kept) == sorted(
        (line["session_id"], line["timestamp"]) for line in LINES
    )
    assert not any("delay" in line for line in kept)
