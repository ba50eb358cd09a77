"""Does the next vLLM still have what AgentCache builds on? Its Python is put into `.venv-drift` and looked at.

`python scripts/drift/drift.py [VERSION]` unpacks the Python files of that release's wheel (no compiled part, no CUDA)
beside the packages of this environment, collects there and here what the plug-in uses, and compares. A line for each
use that moved and still fits; the last line says all: exit code 0 nothing broke or the wheel cannot be had (a counted
skip), 1 something broke.
"""

import json
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path
from typing import Any

from agentcache.vllm_plugin.overrides import misfit

NEXT = "0.33.0"
ROOT = Path(__file__).parents[2]
LOOK = Path(__file__).with_name("look.py")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")


class NoWheel(Exception):
    """The release cannot be had here."""


def environment(version: str) -> Path:
    """The Python of an environment in which `vllm` is that release, and all else this environment's; made once."""
    folder = ROOT / ".venv-drift" / version
    python = folder / "bin" / "python"
    stamp = folder / ".complete"
    if stamp.exists():
        return python
    with tempfile.TemporaryDirectory() as wheels:
        asked = (*PIP, "download", "--no-deps", "--only-binary=:all:", "-d", wheels, f"vllm=={version}")
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
            raise NoWheel(errors[-1])
        venv.create(folder, clear=True)
        site = site_of(folder)
        (wheel,) = Path(wheels).iterdir()
        with zipfile.ZipFile(wheel) as archive:
            wanted = [name for name in archive.namelist() if name.endswith(".py") or ".dist-info/" in name]
            archive.extractall(site, wanted)
    # Behind its own packages stand those of this environment, with what their .pth files add.
    here = sysconfig.get_path("purelib")
    (site / "behind.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    stamp.touch()
    return python


def site_of(folder: Path) -> Path:
    """Where an environment has its packages."""
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))


def extends(new: list[list[Any]], old: list[list[Any]]) -> bool:
    """Whether a call written for the old parameters still fits the new ones."""
    kept = [(name, kind) for name, kind, _ in new[: len(old)]] == [(name, kind) for name, kind, _ in old]
    return kept and all(default or kind.startswith("VAR_") for _, kind, default in new[len(old) :])


def breaks(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """What AgentCache uses and the other vLLM has not, or has with parameters that do not fit; one short text each."""
    found = [f"{use} is gone" for use in there["missing"] if use not in here["missing"]]
    for use, new in there["signatures"].items():
        old = here["signatures"].get(use)
        override = there["overrides"].get(use)
        if override is not None and (fault := misfit(override, new)):
            found.append(f"{use} {fault}")
        elif old is not None and not extends(new, old):
            found.append(f"{use} takes ({', '.join(name for name, _, _ in new)})")
    return sorted(found)


def moves(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """What AgentCache uses and the other vLLM has elsewhere, or with parameters that fit all the same."""
    old, new = here["signatures"], there["signatures"]
    places = {use.rpartition(".")[2]: use for use in old if use not in new}
    found = [f"{use} was {places[name]}" for use in new if (name := use.rpartition(".")[2]) in places]
    for use in new.keys() & old.keys():
        more = [parameter for parameter, _, _ in new[use] if parameter not in {was for was, _, _ in old[use]}]
        if more and not breaks(here, {**there, "missing": [], "signatures": {use: new[use]}}):
            ours = ", and so does ours" if use in there["overrides"] else ""
            found.append(f"{use} also takes {', '.join(more)}{ours}")
    return sorted(found)


def looks(*pythons: Path) -> list[dict[str, Any]]:
    """What is found in each environment; they are looked at side by side."""
    children = [
        subprocess.Popen([python, LOOK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        for python in pythons
    ]
    found = []
    for child in children:
        out, errors = child.communicate()
        if child.returncode:
            raise SystemExit(f"drift: cannot look: {errors.strip().splitlines()[-1]}")
        found.append(json.loads(out.splitlines()[-1]))
    return found


def main(version: str = NEXT) -> int:
    try:
        other = environment(version)
    except NoWheel as error:
        print(f"drift: 1 skipped: vllm=={version} cannot be had: {error}")
        return 0
    here, there = looks(Path(sys.executable), other)
    if here["missing"]:
        print(f"drift: this vLLM itself ({here['version']}) lacks {', '.join(here['missing'])}")
        return 1
    for moved in moves(here, there):
        print(f"    {moved}")
    found = breaks(here, there)
    said = f"{len(found)} of {there['uses']} uses break: {'; '.join(found)}" if found else f"{there['uses']} uses fit"
    print(f"drift: vLLM {there['version']} after {here['version']}: {said}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
