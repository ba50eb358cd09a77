"""The pipe to the process that carries reports to the residency service, started when it is needed."""

import os
import subprocess
import sys
import threading
from importlib.metadata import entry_points
from typing import Protocol

from agentcache.api.frames import read_frame, write_frame
from agentcache.api.messages import OtherSchema
from agentcache.errors import ConfigError, InputError

GROUP = "agentcache.couriers"
ANSWER_S = 15.0
"""Joining a cluster takes a while; later answers are quick."""


class LinkDown(Exception):
    """No service answered, for the reason given."""


class Carrier(Protocol):
    """How a report gets to the service."""

    def carry(self, report: bytes) -> bytes:
        """Returns the reply. Raises `LinkDown`, or `OtherSchema` where the service speaks another one."""

    def close(self) -> None:
        """Stop; a `carry` under way fails."""


class CourierProcess:
    """Speaks frames with `python -m MODULE ADDRESS NAMESPACE`, the module that is installed as a courier for Ray."""

    def __init__(self, address: str, namespace: str) -> None:
        """Raises `ConfigError` where no courier is installed."""
        found = {point.name: point.module for point in entry_points(group=GROUP)}
        if "ray" not in found:
            raise ConfigError("no courier for Ray is installed; not started", hint="reinstall agentcache-vllm[service]")
        self._command = [sys.executable, "-m", found["ray"], address, namespace]
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def carry(self, report: bytes) -> bytes:
        process = self._running()
        assert process.stdin and process.stdout
        late = threading.Event()

        def end() -> None:  # whatever it hangs in, taking the report in or half an answer: its end ends the wait
            late.set()
            process.kill()

        patience = threading.Timer(ANSWER_S, end)
        patience.daemon = True
        patience.start()
        try:
            write_frame(process.stdin, report)
            answer = read_frame(process.stdout)
        except (OSError, ValueError, InputError) as error:
            answer, why = b"", f"the courier is gone: {error}"
        else:
            why = "the courier has ended"
        finally:
            patience.cancel()
        if not answer:
            self._end()
            raise LinkDown(f"no answer within {ANSWER_S:g} s" if late.is_set() else why)
        status, body = answer[:1], answer[1:]
        if status == b"s":
            raise OtherSchema(body.decode(errors="replace"))
        if status != b"+":
            raise LinkDown(body.decode(errors="replace"))
        return body

    def _running(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise LinkDown("the link is closed")
            if self._process is None or self._process.poll() is not None:
                quiet = {"RAY_DEDUP_LOGS": "0", "OMP_NUM_THREADS": "1"}
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=os.environ | quiet,
                    start_new_session=True,  # an interrupt from the terminal is the engine's to handle
                )
            return self._process

    def _end(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process:
            process.kill()
            process.wait()

    def close(self) -> None:
        self._closed = True
        self._end()
