"""Tile shapes: one table per GPU, loaded when first asked for; serving looks up and never tunes."""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from agentcache_kernels.errors import ArgumentError

SCHEMA = "agentcache-kernels/1"
FOLDER = Path(__file__).parent / "configs"


@dataclass(frozen=True, slots=True)
class Config:
    """How one launch is shaped: rows and keys of a tile, warps of a program, stages of its pipeline.

    Raises `ArgumentError` for a shape that no device takes; one that is merely too large fails when it is compiled.
    """

    block_m: int
    block_n: int
    warps: int
    stages: int

    def __post_init__(self) -> None:
        for name, least, most in (("block_m", 16, 1024), ("block_n", 16, 1024), ("warps", 1, 32)):
            value = getattr(self, name)
            if not isinstance(value, int) or not least <= value <= most or value & (value - 1):
                raise ArgumentError(name, repr(value), f"a power of two from {least} to {most}")
        if not isinstance(self.stages, int) or not 1 <= self.stages <= 16:
            raise ArgumentError("stages", repr(self.stages), "a whole number from 1 to 16")


@dataclass(frozen=True, slots=True)
class Entry:
    """A config and what it is for: bytes of an element, padded head size, and at most so many rows a request."""

    element_bytes: int
    d_pad: int
    rows: int
    config: Config


class Table:
    """The configs of one kind of device. Raises `ArgumentError` for a file that is no such table."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            if raw["schema"] != SCHEMA:
                raise ValueError(f"its schema is {raw['schema']!r}")
            self.entries = [
                Entry(
                    entry["element_bytes"],
                    entry["d_pad"],
                    entry["rows"],
                    Config(entry["block_m"], entry["block_n"], entry["warps"], entry["stages"]),
                )
                for entry in raw["entries"]
            ]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArgumentError(f"table {path}", repr(error), f"a file of schema {SCHEMA}") from error
        self.entries.sort(key=lambda entry: entry.rows)

    def find(self, element_bytes: int, d_pad: int, rows: float) -> Config:
        """The config for requests of `rows` rows (tokens x query heads of a KV head): the next larger bucket."""
        fitting = [e for e in self.entries if (e.element_bytes, e.d_pad) == (element_bytes, max(64, d_pad))]
        if not fitting:
            raise ArgumentError(f"table {self.name}", "without an entry", f"{element_bytes} bytes and d {d_pad}")
        return next((entry.config for entry in fitting if entry.rows >= rows), fitting[-1].config)


def slug(device: str) -> str:
    """The file name for a device's name: `NVIDIA H200` is `nvidia-h200`."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


@cache
def table_for(device: torch.device) -> Table:
    """The table of this device; the default one for a GPU that nobody has tuned for."""
    name = slug(torch.cuda.get_device_name(device)) if device.type == "cuda" else "interpreter"
    path = FOLDER / f"{name}.json"
    return Table(path if path.exists() else FOLDER / "default.json")
