"""Lines: what is written is in the file, and whatever happens to the file, who writes goes on and it is counted."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agentcache.errors import ConfigError
from agentcache.vllm_plugin.accounts.lines import Lines


def write(path: Path | str, items: list[bytes], most: int = 4096) -> Lines:
    lines = Lines(str(path), bytes, most)
    for item in items:
        lines.write(item)
    lines.close()
    return lines


def test_all_lines_are_in_the_file_in_their_order_after_those_that_were(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"old\n")
    lines = write(path, [b"%d" % i for i in range(1000)])
    assert path.read_bytes().split() == [b"old", *(b"%d" % i for i in range(1000))]
    assert lines.dropped == 0


@pytest.mark.parametrize("path", ["a folder", "below a file", "/proc/no/such", "a pipe nobody reads", "nul\0"])
def test_what_cannot_be_opened_is_refused_before_an_engine_starts(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    made = {"a folder": tmp_path, "below a file": tmp_path / "file" / "x", "a pipe nobody reads": tmp_path / "pipe"}
    with pytest.raises(ConfigError, match=r"receipts cannot be written to .*; not started"):
        Lines(str(made.get(path, path)), bytes)


def test_a_full_disk_is_counted(tmp_path: Path) -> None:
    assert write("/dev/full", [b"a", b"b", b"c"]).dropped == 3


def test_a_file_at_its_limit_keeps_whole_lines_apart_from_a_torn_one(tmp_path: Path) -> None:
    program = """
import resource, sys
from agentcache.vllm_plugin.accounts.lines import Lines
lines = Lines(sys.argv[1], bytes)
resource.setrlimit(resource.RLIMIT_FSIZE, (25, resource.RLIM_INFINITY))
for _ in range(4):
    lines.write(b"x" * 9)
while lines._queue.qsize() or lines._failed < 2:
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
lines.write(b"after")
lines.close()
print(lines.dropped)
"""
    path = tmp_path / "lines"
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.stdout == "2\n", done.stderr
    assert path.read_bytes().split(b"\n") == [b"x" * 9, b"x" * 9, b"x" * 5, b"after", b""]


def test_a_reader_that_stops_costs_lines_and_no_time(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    lines = Lines(str(path), bytes, most=8)
    for _ in range(100):
        lines.write(b"x" * 4096)
        time.sleep(0.001)
    assert lines.dropped >= 60, "a pipe holds 64 KiB, the queue 8 lines"
    lines.close(timeout_s=0.1)
    assert lines._thread.is_alive(), "it waits for the reader, and nobody waits for it"
    os.close(reader)
    lines._thread.join()


def test_what_cannot_be_encoded_is_counted(tmp_path: Path) -> None:
    lines = Lines(str(tmp_path / "lines"), lambda item: item[0])
    lines.write(())
    lines.close()
    assert lines.dropped == 1
    assert not [thread for thread in threading.enumerate() if thread is lines._thread]
