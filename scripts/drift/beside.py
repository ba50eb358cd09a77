"""Does vLLM run as if AgentCache were not there, when it is merely installed? Asked of several releases of vLLM.

`python scripts/drift/beside.py [VERSION...]` builds our wheel, puts it beside the Python of each release (see
`drift.py`) and has `stock.py` look there: what a process that did not ask for AgentCache sees of it, and what one that
does is told. A line for each release; exit code 0 all left alone, or a release cannot be had (a counted skip), 1 not.
"""

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from drift import PIP, ROOT, NoWheel, environment, site_of

VERSIONS = ("0.10.2", "0.25.1", "0.31.0", "0.32.0", "0.33.0")
STOCK = Path(__file__).with_name("stock.py")


def wheel(folder: str) -> Path:
    """Our own, built from this tree."""
    subprocess.run((*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, str(ROOT)), check=True)
    (built,) = Path(folder).glob("agentcache_vllm-*.whl")
    return built


def install(built: Path, site: Path) -> None:
    with zipfile.ZipFile(built) as archive:
        archive.extractall(site)


def main(*versions: str) -> int:
    faults = skipped = 0
    with tempfile.TemporaryDirectory() as folder:
        built = wheel(folder)
        for version in versions or VERSIONS:
            try:
                python = environment(version)
            except NoWheel as error:
                skipped += 1
                print(f"beside vLLM {version}: skipped: it cannot be had: {error}")
                continue
            install(built, site_of(python.parents[1]))
            child = subprocess.run([python, STOCK], capture_output=True, text=True, check=False, cwd=folder)
            if child.returncode:
                found = {"faults": [f"cannot look: {child.stderr.strip().splitlines()[-1]}"], "asked": {}}
            else:
                found = json.loads(child.stdout.splitlines()[-1])
            faults += len(found["faults"])
            print(f"beside vLLM {version}: {'; '.join(found['faults']) or 'left alone'}")
            for asked, answer in found["asked"].items():
                print(f"    {asked}: {answer}")
    print(f"beside: {faults} faults, {skipped} skipped, of {len(versions or VERSIONS)} releases")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
