from pathlib import Path

import pytest
import zstandard

from agentcache.errors import InputError
from agentcache_workloads.readers.parts.lines import numbered_lines

TEXT = "".join(f"line {i} {'x' * (i % 97)}\n" for i in range(5000))


def packed(text: str) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(text.encode())


@pytest.mark.parametrize("data", [TEXT.encode(), packed(TEXT), packed(TEXT[:3000]) + packed(TEXT[3000:])])
def test_plain_and_compressed_give_the_same_lines(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "any.name"
    path.write_bytes(data)
    lines = list(numbered_lines(path))
    assert [text for _, text in lines] == TEXT.splitlines()
    assert [number for number, _ in lines] == list(range(1, 5001))


def test_a_last_line_without_an_end_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text("a\nb")
    assert list(numbered_lines(path)) == [(1, "a"), (2, "b")]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (packed(TEXT)[:-7], "cut short"),
        (packed(TEXT)[:30], "cut short"),
        (packed(TEXT)[:60] + b"\xff" * 40 + packed(TEXT)[100:], "corrupt"),
        (packed(TEXT) + b"rubbish", "corrupt"),
        (b"good\n\xff\xfe\n", "at line 2"),
    ],
)
def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "t"
    path.write_bytes(data)
    with pytest.raises(InputError, match=reason):
        list(numbered_lines(path))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file") as error:
        list(numbered_lines(tmp_path / "none"))
    assert error.value.hint
