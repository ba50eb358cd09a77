"""What the tests of readers and replay share: the traces carried in the repository, and sessions made by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentcache_workloads.readers.trace import Meta, Parent, Session, TraceCall

DATA = Path(__file__).parents[2] / "workloads" / "data"


@pytest.fixture
def tiny() -> Path:
    return DATA / "cc_weka.tiny.jsonl"


@pytest.fixture
def demo_trace() -> Path:
    return DATA / "cc_weka.cut.jsonl.zst"


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., Path]:
    """Write records (or raw strings) as the lines of a trace."""

    def write(*records: Any) -> Path:
        path = tmp_path / "trace.jsonl"
        path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
        return path

    return write


@pytest.fixture
def make_meta() -> Callable[..., Meta]:
    def make(**changes: Any) -> Meta:
        fields = {
            "name": "made",
            "split": "",
            "n_sessions": 0,
            "n_calls": 0,
            "block_size": 64,
            "hash_scope": "trace",
            "tail_hashed": False,
            "record": {},
        }
        return Meta(**{**fields, **changes})

    return make


@pytest.fixture
def make_session() -> Callable[..., Session]:
    """A session from the block ids of its prompts; everything else has a default or a list, one item a call."""

    def make(
        sid: str,
        prompts: list[list[int]],
        *,
        tails: list[int] | None = None,
        outs: list[int] | None = None,
        pauses: list[float] | None = None,
        stops: list[str] | None = None,
        spawns: dict[int, tuple[str, ...]] | None = None,
        parent: Parent | None = None,
        api_s: float = 1.0,
        duration_s: float | None = None,
    ) -> Session:
        n = len(prompts)
        calls = tuple(
            TraceCall(
                turn=i,
                after=i - 1 if i else None,
                delay_s=(pauses or [0.0] * n)[i],
                delay_kind="tool" if i else "start",
                in_tok=64 * len(prompts[i]) + (tails or [0] * n)[i],
                out_tok=(outs or [64] * n)[i],
                enc="blocks",
                items=tuple(prompts[i]),
                stop=(stops or ["tool_use"] * n)[i],
                tools=(),
                spawn=(spawns or {}).get(i, ()),
                t_s=None,
                api_s=api_s,
                record={},
            )
            for i in range(n)
        )
        return Session(sid, parent, None, duration_s, calls, {})

    return make
