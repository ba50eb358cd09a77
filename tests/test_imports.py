"""The directions between the rooms: who may import whom, read from the source of every file."""

import ast
import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

GROUND = {"errors", "files", "specs"}
"""Known by every room of `agentcache` and the packages on top of it."""
BASE = GROUND | {"model"}
CORE = BASE | {"cost", "policy", "residency"}
HOSTS = {"service", "vllm_plugin", "sim"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},
    "specs": {"errors"},
    "model": GROUND,
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

WINGS: dict[str, tuple[set[str], ...]] = {
    "agentcache.policy": (
        {"survival", "pause_window", "chunking"},
        {"base"},
        {"guard", "leased"},
        {"return_index", "ttl", "published", "admission"},
        {"lru_live"},
        {"registry"},
    ),
    "agentcache.vllm_plugin": (
        {"compat"},
        {"accounts", "overrides"},
        {"config", "spare"},
        {"levels"},
        {"host"},
        {"blocks", "copies", "link"},
        {"steps"},
        {"scheduler", "launch"},
        {"rows"},
        {"cpu_worker", "gpu_worker", "lab"},
    ),
    "agentcache.service": (
        {"config", "directory"},
        {"actor", "routing"},
        {"replicas", "router", "autoscaling"},
        {"front"},
        {"app"},
        {"local"},
    ),
    "agentcache_workloads.replay": ({"spec", "result"}, {"jobs"}, {"accounts", "hints"}, {"engines"}, {"commands"}),
}
"""The wings of the large rooms, floor by floor: each imports from the floors before its own alone."""

STDLIB_ONLY = GROUND | {"model"}
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


def folder_of(package: str) -> Path:
    """Where a package of ours lies."""
    first, *rest = package.split(".")
    return ROOT.joinpath(PACKAGES[first][1] if first in PACKAGES else "", first, *rest)


def sources() -> Iterator[tuple[str, Path]]:
    """Every source file with its room."""
    for path in sorted((ROOT / "agentcache").rglob("*.py")):
        room = path.relative_to(ROOT / "agentcache").parts[0].removesuffix(".py")
        if room != "__init__":
            yield room, path
    for package, (room, _) in PACKAGES.items():
        yield from ((room, path) for path in sorted(folder_of(package).rglob("*.py")))


def imports(room: str, path: str, source: str, packages: Collection[str] = ("agentcache", "vllm")) -> Iterator[Import]:
    """Every import of a file, also those inside functions and under `TYPE_CHECKING`.

    Members of `packages` may be modules: `from agentcache import service`.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(path, node.lineno, room, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; rooms are named in full"
            if node.module in packages:
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


def wing(room: str, module: str) -> str | None:
    """The wing of a module by its full name; None if it is not in that room, or the room itself."""
    inside = module.removeprefix(f"{room}.")
    return inside.partition(".")[0] if inside != module else None


def arrows(room: str) -> Iterator[tuple[str, str, str]]:
    """Who imports what in a large room, from wing to wing, and where."""
    folder = folder_of(room)
    for path in sorted(folder.rglob("*.py")):
        if (own := path.relative_to(folder)).name == "__init__.py" and len(own.parts) == 1:
            continue
        for found in imports(room, path.relative_to(ROOT).as_posix(), path.read_text(), (room,)):
            if target := wing(room, found.module):
                yield own.parts[0].removesuffix(".py"), target, f"{found.path}:{found.line}"


@pytest.mark.parametrize("room", WINGS)
def test_wings_import_downward(room: str) -> None:
    floor = {name: number for number, names in enumerate(WINGS[room]) for name in names}
    for source, target, where in arrows(room):
        assert source in floor and target in floor, f"{where}: {source} or {target} is in no known wing of {room}"
        assert source == target or floor[target] < floor[source], f"{where}: {source} imports {target}"


@pytest.mark.parametrize("room", WINGS)
def test_every_wing_is_found(room: str) -> None:
    folder = folder_of(room)
    names = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert names - {"__init__"} == set().union(*WINGS[room])


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
        ("cli", "import agentcache_workloads.replay.commands.replay"),
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
        files = [path.relative_to(ROOT).with_suffix("") for path in folder.rglob("*.py")]
        light += [".".join(file.parts).removesuffix(".__init__") for file in files]
    code = f"import sys, {', '.join(light)}; print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
