"""Runs on vLLM, each in a fresh process: no state of one row can reach another."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import IO

import msgspec

from agentcache import errors
from agentcache.errors import EngineError
from agentcache.vllm_plugin.launch.cpu_env import CPU_ENV
from agentcache_workloads.replay.spec import Ended, Failed, Message, Progressed, RunResult, RunSpec

WORKER = [sys.executable, "-m", "agentcache_workloads.replay.engines.vllm.worker"]


def environment(spec: RunSpec) -> dict[str, str]:
    """The worker's environment: the caller's, quiet, in one process, and without any plug-in in the stock row."""
    env = {**CPU_ENV, "OMP_NUM_THREADS": str(os.cpu_count() or 1), **os.environ}
    env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the worker looks into its engine
    if spec.stock:
        env["VLLM_PLUGINS"] = ""
    return env


def run(spec: RunSpec, on_calls: Callable[[int], None]) -> RunResult:
    """Make one run in a process of its own; `on_calls` hears how many calls have ended.

    Raises what the worker raised of AgentCache's errors, else `EngineError` with the last lines it printed. Whatever
    ends this call ends the process.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            WORKER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment(spec),
            start_new_session=True,  # Ctrl-C reaches us alone, and we end the whole group
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(msgspec.json.encode(spec))
            process.stdin.close()
            result = _listen(process.stdout, on_calls)
            if process.wait() == 0 and result is not None:
                return result
        except BrokenPipeError:
            pass  # it died before it read its spec; its log says why
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
        raise EngineError(
            f"the engine process of policy {spec.policy}, seed {spec.seed} ended with code {process.returncode} and "
            f"no result; its last lines:\n{_tail(log)}",
            hint="`agentcache doctor` says whether the engine starts at all",
        )


def _listen(pipe: IO[bytes], on_calls: Callable[[int], None]) -> RunResult | None:
    decoder = msgspec.json.Decoder(Message)
    result = None
    for line in pipe:
        message = decoder.decode(line)
        if isinstance(message, Progressed):
            on_calls(message.calls)
        elif isinstance(message, Ended):
            result = message.result
        elif isinstance(message, Failed):
            raise getattr(errors, message.error)(message.message, message.hint)
    return result


def _tail(log: IO[bytes], lines: int = 12) -> str:
    log.seek(0)
    text = log.read().decode(errors="replace")
    return "\n".join(text.rstrip().splitlines()[-lines:])
