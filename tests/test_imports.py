"""The directions between the rooms: who may import whom, read from the source of every file."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

BASE = {"model", "errors"}
CORE = BASE | {"cost", "policy", "residency"}
HOSTS = {"service", "vllm_plugin", "sim"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "model": {"errors"},
    "cost": BASE,
    "policy": BASE | {"cost"},
    "residency": BASE | {"cost", "policy"},
    "api": CORE,
    "service": CORE | {"api"},
    "vllm_plugin": CORE | {"api", "kernels"},
    "sim": CORE | {"api"},
    "cli": CORE | {"api", "kernels"} | HOSTS,
    "workloads": CORE | {"api"} | HOSTS,
    "continuum": CORE | {"api"} | HOSTS,
    "kernels": set(),
}
"""Each room and the rooms that it may import. The version (`agentcache` itself) is anybody's; `api` stands beside the
residency and may name what it holds, never the other way round."""

PACKAGES = {
    "agentcache_kernels": ("kernels", "kernels"),
    "agentcache_continuum": ("continuum", "integrations/continuum"),
    "agentcache_workloads": ("workloads", "workloads"),
}
"""The outer packages: import name -> room and folder."""

STDLIB_ONLY = {"errors", "model"}
THIRD_PARTY = {
    "cost": {"numpy", "scipy", "msgspec"},
    "policy": {"numpy", "scipy", "msgspec", "sortedcontainers"},
    "residency": {"numpy", "msgspec", "sortedcontainers"},
}
"""What the core may import from outside; rooms above it choose for themselves, but for the rules below."""

HEAVY = ("torch", "ray", "vllm", "triton", "matplotlib")


@dataclass(frozen=True)
class Import:
    path: str
    line: int
    room: str
    module: str
    """The module named: for `from a import b`, `a`; its members are members unless `a.b` is a file of ours."""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.room} imports {self.module}"


def sources() -> Iterator[tuple[str, Path]]:
    """Every source file with its room."""
    for path in sorted((ROOT / "agentcache").rglob("*.py")):
        room = path.relative_to(ROOT / "agentcache").parts[0].removesuffix(".py")
        if room != "__init__":
            yield room, path
    for package, (room, folder) in PACKAGES.items():
        yield from ((room, path) for path in sorted((ROOT / folder / package).rglob("*.py")))


def imports(room: str, path: str, source: str) -> Iterator[Import]:
    """Every import of a file, also those inside functions and under `TYPE_CHECKING`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(path, node.lineno, room, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; rooms are named in full"
            if node.module in ("agentcache", "vllm"):  # members may be modules: `from agentcache import service`
                names = (alias.name for alias in node.names)
                yield from (Import(path, node.lineno, room, f"{node.module}.{name}") for name in names)
            else:
                yield Import(path, node.lineno, room, node.module or "")


def room_of(module: str) -> str | None:
    """The room of a module of ours; None for others', and for `agentcache` itself."""
    first, _, rest = module.partition(".")
    if first in PACKAGES:
        return PACKAGES[first][0]
    room = rest.partition(".")[0]
    return room if first == "agentcache" and room in ALLOWED else None


def is_private_vllm(module: str) -> bool:
    """Whether it is a submodule of vLLM's; its public names are imported from `vllm` itself and start high."""
    return module.startswith("vllm.") and module.split(".")[1][:1].islower()


def faults(found: Import) -> Iterator[str]:
    """What is wrong with an import, if anything."""
    room, top = found.room, found.module.partition(".")[0]
    target = room_of(found.module)
    if target is not None and target != room and target not in ALLOWED[room]:
        yield f"{found}, may import {sorted(ALLOWED[room]) or 'nothing of ours'}"
    if is_private_vllm(found.module) and found.path != "agentcache/vllm_plugin/compat.py":
        yield f"{found}: only agentcache/vllm_plugin/compat.py touches vLLM's private names"
    if top == "ray" and room != "service":
        yield f"{found}: only service imports ray"
    if target is None and top not in sys.stdlib_module_names and top != "agentcache":
        if room in STDLIB_ONLY:
            yield f"{found}: {room} needs the standard library only"
        elif top not in THIRD_PARTY.get(room, {top}):
            yield f"{found}: {room} may import {sorted(THIRD_PARTY[room])}"


FILES = [pytest.param(room, path, id=str(path.relative_to(ROOT))) for room, path in sources()]


@pytest.mark.parametrize(("room", "path"), FILES)
def test_directions(room: str, path: Path) -> None:
    assert room in ALLOWED, f"{path} is in no known room: add it to the table, with its directions"
    name = path.relative_to(ROOT).as_posix()
    assert [fault for found in imports(room, name, path.read_text()) for fault in faults(found)] == []


def test_every_room_is_found() -> None:
    assert {room for room, _ in sources()} == set(ALLOWED)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("model", "import agentcache.policy"),
        ("model", "import numpy"),
        ("cost", "import torch"),
        ("policy", "from agentcache.residency import Residency"),
        ("residency", "from agentcache import vllm_plugin"),
        ("sim", "from agentcache.vllm_plugin.host import Host"),
        ("vllm_plugin", "def late():\n    import agentcache.service.app"),
        ("workloads", "from agentcache.cli.main import main"),
        ("cli", "import agentcache_workloads.replay.command"),
        ("kernels", "from agentcache.errors import AgentCacheError"),
        ("vllm_plugin", "from vllm.v1.core.sched.scheduler import Scheduler"),
        ("vllm_plugin", "from vllm import config"),
        ("cli", "import vllm.config"),
        ("vllm_plugin", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vllm.config import VllmConfig"),
        ("vllm_plugin", "import ray"),
    ],
)
def test_the_rules_catch_what_they_forbid(room: str, source: str) -> None:
    assert [fault for found in imports(room, "agentcache/made_up.py", source) for fault in faults(found)]


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("residency", "from agentcache.policy.base import Policy"),
        ("workloads", "from agentcache.vllm_plugin.compat import LogitsProcessor"),
        ("cli", "from agentcache import __version__"),
        ("vllm_plugin", "from vllm import LLM, EngineArgs, SamplingParams"),
        ("service", "import ray.serve"),
        ("model", "from enum import Enum\nfrom agentcache.errors import CheckFailed"),
    ],
)
def test_the_rules_let_through_what_they_allow(room: str, source: str) -> None:
    assert [fault for found in imports(room, "agentcache/made_up.py", source) for fault in faults(found)] == []


def test_the_core_loads_nothing_heavy() -> None:
    light = ["agentcache", "agentcache.api", "agentcache.sim", "agentcache.cli.main", "agentcache.vllm_plugin"]
    for room in sorted(CORE):
        folder = ROOT / "agentcache" / room
        light += [f"agentcache.{room}", *(f"agentcache.{room}.{path.stem}" for path in folder.glob("[!_]*.py"))]
    code = f"import sys, {', '.join(light)}; print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
