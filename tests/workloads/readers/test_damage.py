"""No damage of a line makes a reader fail in another way than by saying where, or return what cannot be."""

import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcache.errors import InputError
from agentcache_workloads.readers.damage import damaged
from agentcache_workloads.readers.open import open_trace
from agentcache_workloads.readers.parts.records import Skips
from agentcache_workloads.readers.trace import Session

SAMPLES = Path(__file__).parent / "samples"
TINY = Path(__file__).parents[3] / "workloads/data/cc_weka.tiny.jsonl"
FILES = {
    "agentkv": TINY,
    "mooncake": SAMPLES / "mooncake_sessions.jsonl",
    "timed-trace": SAMPLES / "timed_trace.jsonl",
    "bailian": SAMPLES / "bailian.jsonl",
    "tracelab": SAMPLES / "tracelab.csv",
    "openai-chat": SAMPLES / "openai_chat.jsonl",
    "weka": SAMPLES / "weka.jsonl",
    "bfcl": SAMPLES / "bfcl/BFCL_v4_multi_turn_made.json",
}


def check(session: Session) -> None:
    assert session.sid
    for turn, call in enumerate(session.calls):
        assert call.turn == turn
        assert call.after is None or 0 <= call.after < turn
        assert call.in_tok >= 0
        assert call.out_tok >= 0
        for seconds in (call.delay_s, call.t_s, call.api_s):
            assert seconds is None or (math.isfinite(seconds) and seconds >= 0)
        assert call.enc == "len" or call.items is not None


def read(path: Path, form: str, skips: Skips | None) -> str | None:
    """Check all sessions; what the reader said, if it gave up."""
    try:
        for session in open_trace(path, form, skips=skips)[1]:
            check(session)
    except InputError as error:
        return error.message
    return None


@pytest.mark.parametrize("form", FILES)
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), place=st.floats(0, 1, exclude_max=True))
def test_damage_is_named_or_skipped(
    form: str, seed: int, place: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged.{form}"
    lines = FILES[form].read_text(encoding="utf-8").splitlines()
    at = int(place * len(lines))
    lines[at] = damaged(lines[at], random.Random(seed))
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    told = read(path, form, None)
    assert told is None or (str(path) in told and "line " in told)
    told = read(path, form, Skips())
    # the head of a file cannot be left out, nor what is no text at all
    assert told is None or at == 0 or "cannot be read" in told


def test_a_line_without_end_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentcache_workloads.readers.parts.lines.LONGEST_LINE_BYTES", 1 << 20)
    path = tmp_path / "endless"
    path.write_bytes(b"[" * (3 << 20))
    with pytest.raises(InputError, match="a line of more than"):
        open_trace(path, "mooncake")
