"""What a vLLM process sees of an AgentCache that is installed beside it; prints one JSON object.

`faults`: what was done, said or raised though nobody asked. `asked`: for each class that switches AgentCache on, that
it loads, or the one sentence that says why not.
"""

import importlib
import json
import logging
import os
import sys
import threading
from importlib.metadata import distribution
from typing import Any

from foreign import imported

CLASSES = (
    "agentcache.vllm_plugin.scheduler.AgentCacheScheduler",
    "agentcache.vllm_plugin.scheduler.AgentCacheAsyncScheduler",
    "agentcache.vllm_plugin.cpu_worker.AgentCacheCPUWorker",
    "agentcache.vllm_plugin.gpu_worker.AgentCacheGPUWorker",
)
ENTRY = {"agentcache", "agentcache.vllm_plugin"}
"""All that may be imported unasked."""


class Heard(logging.Handler):
    """Keeps what is said of us at warning level and above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "agentcache" in (line := record.getMessage().lower()):
            self.lines.append(line)


def standing() -> dict[str, Any]:
    """What a plug-in could change in a process."""
    prometheus = imported("prometheus_client").REGISTRY
    registry = sys.modules.get("vllm.v1.attention.backends.registry")
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "environment": dict(os.environ),
        "collectors": len(prometheus._collector_to_names),
        "backends": dict(getattr(registry, "_ATTN_OVERRIDES", {})),
        "import hooks": [type(finder).__name__ for finder in sys.meta_path],
    }


def unasked() -> list[str]:
    """Load what vLLM loads by itself, as it does; returns what is wrong about it."""
    faults = []
    plugins = imported("vllm.plugins")
    loggers = imported("vllm.v1.metrics.loggers")
    heard, before = Heard(), standing()
    for name in ("vllm", ""):
        logging.getLogger(name).addHandler(heard)
    for _ in range(2):
        plugins.load_general_plugins()
        plugins.plugins_loaded = False
    if find := getattr(loggers, "load_stat_logger_plugin_factories", None):
        faults += [f"a logger of statistics switches them on: {made}" for made in find()]
    for point in distribution("agentcache-vllm").entry_points:
        if point.group.startswith("vllm."):
            point.load()()
    after = standing()
    faults += [f"{what} changed" for what in before if before[what] != after[what]]
    faults += [f"it says: {line}" for line in heard.lines]
    more = {name for name in sys.modules if name.partition(".")[0].startswith("agentcache")} - ENTRY
    return faults + ([f"imported unasked: {', '.join(sorted(more))}"] if more else [])


def loaded() -> list[str]:
    """Load our other entry points too, which only we ask for; returns those that cannot be."""
    faults = []
    for point in distribution("agentcache-vllm").entry_points:
        try:
            point.load()
        except Exception as error:
            faults.append(f"{point.group} {point.name}: {type(error).__name__}: {error}")
    return faults


def asked(path: str) -> str:
    """What an engine is told that names this class."""
    module, _, name = path.rpartition(".")
    unsupported = importlib.import_module("agentcache.errors").Unsupported
    try:
        getattr(imported(module), name)
    except unsupported as error:
        return str(error.message)
    return "loads"


def main() -> None:
    faults = unasked() + loaded()
    answers: dict[str, str] = {}
    for path in CLASSES:
        try:
            answers[path.rpartition(".")[2]] = asked(path)
        except Exception as error:
            faults.append(f"{path}: {type(error).__name__}: {error}")
    ours = sys.modules["agentcache"].__file__ or ""
    if not ours.startswith(sys.prefix):
        faults.append(f"looked at {ours}, not at the wheel")
    print(json.dumps({"faults": faults, "asked": answers}))


if __name__ == "__main__":
    main()
