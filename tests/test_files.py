"""A file is there whole or as it was, and nothing lies beside it."""

import json
import os
import socket
from pathlib import Path

import pytest

from agentcache.errors import ConfigError
from agentcache.files import check_writable, cpu_model, free_port, whole, write_csv, write_json, write_whole


def test_a_file_is_replaced_in_one_piece(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_whole(path, "ä")
    with whole(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text(encoding="utf-8") == "ä"
    assert path.read_bytes() == b"new"
    write_json(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["f"] and path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("there", [True, False])
def test_a_write_that_fails_leaves_what_was(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "f"
    if there:
        write_whole(path, "old")
    with pytest.raises(TypeError), whole(path) as file:
        file.writelines([b"half", "of it"])  # type: ignore[list-item]
    assert os.listdir(tmp_path) == ["f"] * there
    assert not there or path.read_text() == "old"


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(path := tmp_path / "f")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(path, "x")
    assert os.read(reader, 9) == b"x" and path.is_fifo() and os.listdir(tmp_path) == ["f"]
    os.close(reader)


def test_rows_are_written_under_the_columns_of_the_first_or_those_given(tmp_path: Path) -> None:
    rows = [{"a": 1, "b": "x,y"}, {"a": 2.5, "b": None}]
    write_csv(tmp_path / "f", rows)
    assert (tmp_path / "f").read_bytes() == b'a,b\n1,"x,y"\n2.5,\n'
    write_csv(tmp_path / "f", rows, ["b", "c", "a"])
    assert (tmp_path / "f").read_bytes() == b'b,c,a\n"x,y",,1\n,,2.5\n'


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "no" / "f", tmp_path / "folder"):
        with pytest.raises(ConfigError, match=r"cannot be written: .*; the page is lost"):
            write_whole(path, "x", "the page is lost")
        with pytest.raises(ConfigError, match=r"--json .* cannot be written; nothing was started"):
            check_writable("--json", path)
    assert os.listdir(tmp_path) == ["folder"] and os.listdir(tmp_path / "folder") == []
    check_writable("--json", tmp_path / "f")
    check_writable("--json", None)


def test_a_port_that_is_found_is_free() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))


def test_a_machine_has_a_name() -> None:
    assert cpu_model()
