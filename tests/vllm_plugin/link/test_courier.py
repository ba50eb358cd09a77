"""A courier that hangs, whatever it hangs in, costs one exchange and no more."""

import sys

import pytest

from agentcache.vllm_plugin.link import courier
from agentcache.vllm_plugin.link.courier import CourierProcess, LinkDown

ECHO = """
import sys
from agentcache.api.frames import read_frame, write_frame
while (body := read_frame(sys.stdin.buffer)) is not None:
    write_frame(sys.stdout.buffer, b"+" + body)
"""


@pytest.fixture
def carrier(monkeypatch: pytest.MonkeyPatch) -> CourierProcess:
    monkeypatch.setattr(courier, "ANSWER_S", 0.5)
    return CourierProcess("auto", "agentcache")


@pytest.mark.parametrize(
    "program",
    [
        "import signal; signal.pause()",
        "import signal, sys; sys.stdin.buffer.read(10); signal.pause()",
        "import signal, sys; sys.stdout.buffer.write(b'0000'); sys.stdout.flush(); signal.pause()",
    ],
    ids=["takes no report", "stops in the middle of one", "answers by half"],
)
def test_it_is_ended_and_the_next_exchange_starts_another(program: str, carrier: CourierProcess) -> None:
    carrier._command = [sys.executable, "-c", program]
    with pytest.raises(LinkDown):
        carrier.carry(b"x" * (1 << 20))  # more than a pipe holds
    assert carrier._process is None
    courier.ANSWER_S = 240.0
    carrier._command = [sys.executable, "-c", ECHO]
    assert carrier.carry(b"a report") == b"a report"
    assert carrier.carry(b"another") == b"another"
    carrier.close()
    with pytest.raises(LinkDown, match="closed"):
        carrier.carry(b"late")


def test_silence_is_told_from_an_end(carrier: CourierProcess) -> None:
    carrier._command = [sys.executable, "-c", "import signal; signal.pause()"]
    with pytest.raises(LinkDown, match=r"no answer within 0\.5 s"):
        carrier.carry(b"x" * (1 << 20))
    courier.ANSWER_S = 240.0
    carrier._command = [sys.executable, "-c", ""]
    with pytest.raises(LinkDown, match="courier"):
        carrier.carry(b"")
