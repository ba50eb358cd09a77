"""A driver in a process of its own, asked case by case, and started again when a case has broken its engine."""

import signal
import subprocess
import sys
import tempfile
from typing import IO

import msgspec

from agentcache.errors import EngineError
from agentcache.vllm_plugin.lab.verify.engine.cases import Case, Setting
from agentcache.vllm_plugin.lab.verify.engine.outcome import Outcome

LAST_WORDS = 6


class Child:
    """Runs cases of one setting, one after the other in one engine; a context manager, which ends the process."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.starts = 0
        self._process: subprocess.Popen[str] | None = None
        self._said: IO[str] | None = None

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def run(self, case: Case) -> Outcome:
        """Raises `EngineError` if the engine does not start. A process that ends is the case's own finding."""
        if self._process is None:
            self._start()
        line = self._ask(msgspec.json.encode(case).decode())
        if not line:
            if self._process and self._process.wait() == -signal.SIGINT:
                raise KeyboardInterrupt  # at the terminal, which tells both of us
            outcome = Outcome(fault=f"the engine's process has ended: {self._last_words()}", broken=True)
        else:
            outcome = msgspec.json.decode(line, type=Outcome)
        if outcome.broken:
            self.stop()
        return outcome

    def fresh(self) -> None:
        """The next case meets an engine that has run nothing before."""
        self.stop()

    def stop(self) -> None:
        if self._process:
            assert self._process.stdin and self._process.stdout
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
        if self._said:
            self._said.close()
        self._process = self._said = None

    def _start(self) -> None:
        self.starts += 1
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  (closed by stop)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "agentcache.vllm_plugin.lab.verify.engine.engine_run"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        if not self._ask(msgspec.json.encode(self.setting).decode()):
            self._process.wait()  # its answers end before it has said why
            words = self._last_words()
            self.stop()
            raise EngineError(f"the engine of setting {self.setting.name} does not start: {words}")

    def _ask(self, line: str) -> str:
        """The answer to a line; empty if the process has ended."""
        assert self._process and self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return ""
        return self._process.stdout.readline()

    def _last_words(self) -> str:
        assert self._said
        self._said.seek(0)
        return " | ".join([line.strip() for line in self._said if line.strip()][-LAST_WORDS:])
