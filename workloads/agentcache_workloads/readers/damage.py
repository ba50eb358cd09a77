"""Damage to a line of a trace, as transfers, editors and other programs do it: for tests that nothing slips through."""

import json
import random
from collections.abc import Callable
from typing import Any

STRANGE: tuple[Any, ...] = (
    None, True, False, -1, 0, 0.5, -0.0, 1e308, float("nan"), float("inf"), 10**30, 10**400, "", "x", "\ud800", "\x00",
    "1", [], [[]], [None], {}, {"a": 1}, [1.5], ["1"], [True], [-1], [10**30],
)  # fmt: skip


def damaged(text: str, rng: random.Random) -> str:
    """The line with one to three changes; it may, by chance, still be right."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        text = rng.choice(_DAMAGES)(text, rng)
    return text.replace("\n", " ")


def _cut(text: str, rng: random.Random) -> str:
    return text[: rng.randrange(len(text) + 1)]


def _drop(text: str, rng: random.Random) -> str:
    start = rng.randrange(len(text) + 1)
    return text[:start] + text[start + rng.randrange(1, 20) :]


def _flip(text: str, rng: random.Random) -> str:
    if not text:
        return "}"
    at = rng.randrange(len(text))
    return text[:at] + chr(rng.choice((*range(32, 127), 0, 233, 0x1F600))) + text[at + 1 :]


def _insert(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) + 1)
    return (
        text[:at]
        + rng.choice(('"', "{", "}", "[" * 5000, ",", "NaN", "9" * 5000, "null", "\\", "-", "1e999"))
        + text[at:]
    )


def _twice(text: str, rng: random.Random) -> str:
    return text + rng.choice(("", " ", ",")) + text


def _value(text: str, rng: random.Random) -> str:
    """Another value in any place of the record."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return _flip(text, rng)
    places = list(_places(record))
    if not places:
        return _flip(text, rng)
    holder, key = rng.choice(places)
    action = rng.randrange(4)
    if action == 0 and isinstance(holder, dict):
        del holder[key]
    elif action == 1 and type(holder[key]) in (int, float) and abs(holder[key]) < 1e15:
        holder[key] = rng.choice((-holder[key], holder[key] * 1000, holder[key] + 0.5, str(holder[key])))
    else:
        holder[key] = rng.choice(STRANGE)
    try:
        return json.dumps(record)
    except ValueError:  # a whole number too long to be written
        return "9" * 5000


def _field(text: str, rng: random.Random) -> str:
    """Another field of a line with commas."""
    fields = text.split(",")
    fields[rng.randrange(len(fields))] = rng.choice(("", "-1", "x", "1.5", "nan", "1e9", '"', "9" * 30, "٣"))
    return ",".join(fields)


_DAMAGES: tuple[Callable[[str, random.Random], str], ...] = (
    _cut, _drop, _flip, _insert, _twice, _field, _value, _value, _value, _value, _value,
)  # fmt: skip


def _places(value: Any, depth: int = 0) -> Any:
    """Each place of a record that holds a value; of long lists the first few."""
    if depth > 6:
        return
    keys = list(value) if isinstance(value, dict) else range(min(len(value), 8)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key], depth + 1)
