"""The environment in which a CPU engine runs quietly, offline and in one process."""

import os
import sys
from importlib.util import find_spec
from types import SimpleNamespace

CPU_ENV = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process: tests and replays look inside
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; the pool's size is given in blocks
    "VLLM_CPU_CI_ENV": "1",
    "HF_HUB_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",  # the first request would wait for a compiler
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
}

SERVER_ENV = {name: CPU_ENV[name] for name in ("VLLM_CPU_KVCACHE_SPACE", "TORCHDYNAMO_DISABLE", "VLLM_NO_USAGE_STATS")}
"""What a server on a CPU needs of it; it keeps its own processes and its log."""


def prepare(threads: int | None = None) -> None:
    """Set what the user has not set; to be called before vLLM is imported.

    `threads` fixes OpenMP's; unset it, and vLLM on a small machine stalls for seconds at random.
    """
    for name, value in CPU_ENV.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads or os.cpu_count() or 1))


def interpret_triton() -> None:
    """Have Triton kernels interpreted and vLLM take its second model runner; before vLLM is imported.

    That runner refuses to start without a Triton driver for the CPU. The interpreter needs none, so a name will do.
    """
    os.environ.update(TRITON_INTERPRET="1", VLLM_USE_V2_MODEL_RUNNER="1")
    import triton.backends

    driver = type("Driver", (), {"is_active": staticmethod(lambda: False)})
    triton.backends.backends["cpu"] = SimpleNamespace(driver=driver, compiler=None)


def interpret_in_children() -> None:
    """Have processes that this one spawns interpret Triton kernels too, from before they import vLLM.

    The first thing that a spawned process does is to import its parent's main module.
    """
    sys.modules["__main__"].__spec__ = find_spec("agentcache.vllm_plugin.launch.interpreted")
