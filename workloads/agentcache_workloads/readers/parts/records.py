"""What all readers share: a file's records one by one, checks that name file and line, and skips that are counted."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from agentcache.errors import InputError
from agentcache_workloads.readers.parts.lines import numbered_lines

NUMBER = (int, float)
LARGEST = 1e15
"""No count of tokens and no time in milliseconds is above it: what is, is damage."""
SHOWN = 5

T = TypeVar("T")


@dataclass(slots=True)
class Skips:
    """What a lenient reader left out: how many records, and the first reasons."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, reason: str, records: int = 1) -> None:
        self.count += records
        if len(self.first) < SHOWN:
            self.first.append(reason)


class Records:
    """The records of a file. With `skips`, what cannot be read is counted there; without, it raises `InputError`."""

    form = "?"
    hint = ""

    def __init__(self, path: str | Path, skips: Skips | None = None) -> None:
        self.path = path
        self.line = 0
        self.skips = skips

    def fail(self, found: str, expected: str, hint: str | None = None) -> NoReturn:
        found = found.encode("utf-8", "backslashreplace").decode()  # a lone surrogate cannot be printed
        raise InputError(
            f"{self.path}, line {self.line}: {found}, expected {expected}; nothing was done", hint=hint or self.hint
        )

    def tolerate(self, read: Callable[..., T], *what: Any, records: int = 1) -> T | None:
        """What `read` makes of its arguments; None where it cannot read and skips are counted."""
        try:
            return read(*what)
        except InputError as error:
            if self.skips is None:
                raise
            self.skips.add(error.message.removesuffix("; nothing was done"), records)
            return None

    def texts(self) -> Iterator[str]:
        """The lines that are not empty, `self.line` following."""
        for line, text in numbered_lines(self.path):
            self.line = line
            if text.strip():
                yield text

    def parsed(self, text: str) -> dict[str, Any]:
        """One JSON object."""
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            self.fail(f"broken JSON ({error.msg} at column {error.colno})", "one JSON object")
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets without end
            self.fail(f"JSON that cannot be read ({error})", "one JSON object")
        if not isinstance(record, dict):
            self.fail(f"a JSON {type(record).__name__}", "one JSON object")
        return record

    def get(self, record: dict[str, Any], key: str, types: type | tuple[type, ...], what: str) -> Any:
        if key not in record:
            self.fail(f"no field {key!r}", what)
        value = record[key]
        wanted = types if isinstance(types, tuple) else (types,)
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            self.fail(f"{key} is {_short(value)}", what)
        return value

    def amount(self, record: dict[str, Any], key: str, *, optional: bool = False, whole: bool = False) -> Any:
        """A number that is finite, not negative and no larger than `LARGEST`; None too where it is optional."""
        value: Any = record.get(key)
        if value is None and optional:
            return None
        what = "a whole number >= 0" if whole else "a number >= 0"
        if type(value) is not int and (whole or type(value) is not float):
            self.get(record, key, int if whole else NUMBER, what)
        if not 0 <= value <= LARGEST:  # false of NaN too
            self.fail(f"{key} is {_short(value)}", what)
        return value

    def tokens(self, record: dict[str, Any], key: str) -> int:
        """A length in tokens, at least 1."""
        value: int = self.amount(record, key, whole=True)
        if value == 0:
            self.fail(f"{key} is 0", "at least 1 token")
        return value

    def name(self, record: dict[str, Any], key: str) -> str:
        """A string or a whole number, as a string that is not empty and can be printed."""
        value = self.get(record, key, (str, int), "a string or a whole number")
        text = str(value) if type(value) is str or abs(value) <= LARGEST else ""
        if not text or not text.isprintable():
            self.fail(f"{key} is {_short(value)}", "a printable string or a whole number")
        return text

    def ids(self, record: dict[str, Any], key: str) -> tuple[int, ...]:
        """Block ids: whole numbers."""
        value = tuple(self.get(record, key, list, "a list of block ids"))
        if not set(map(type, value)) <= {int}:
            self.fail(f"{key} holds something else than whole numbers", "block ids only")
        return value

    def text(self, record: dict[str, Any], key: str) -> str:
        """A string; empty where there is none."""
        return self.get(record, key, str, "a string") if record.get(key) is not None else ""

    def objects(self, record: dict[str, Any], key: str) -> list[dict[str, Any]]:
        """A list of objects; empty where there is none."""
        value = self.get(record, key, list, "a list of objects") if record.get(key) is not None else []
        if not set(map(type, value)) <= {dict}:
            self.fail(f"{key} holds something else than objects", "a list of objects")
        return value

    def check_blocks(self, ids: tuple[int, ...], in_tok: int, block_size: int) -> None:
        """So many ids for so many tokens: whole blocks, or one more for the rest, give or take 2 or 2 %."""
        expected = in_tok / block_size
        if not expected - max(2, 0.02 * expected) <= len(ids) <= expected + max(2, 0.02 * expected):
            self.fail(
                f"{len(ids)} block ids for {in_tok} prompt tokens",
                f"about {math.ceil(expected)} of {block_size} tokens each",
                hint="if the source's blocks have another size, say so: --block-size, of a replay --trace-block-size",
            )


def _short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # a whole number too long to be written
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else text[:77] + "..."
