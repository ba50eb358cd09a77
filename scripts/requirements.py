"""Prints the third-party requirements of this project, one a line, as `pyproject.toml` states them.

    python scripts/requirements.py EXTRA...

For an installer that needs them apart from the project itself: to build it without isolation, and to install torch
first, from an index of its own.
"""

import sys
import tomllib
from pathlib import Path


def requirements(extras: list[str]) -> list[str]:
    """What builds the project, what it depends on, and what the extras add."""
    stated = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    project = stated["project"]
    added = [line for extra in extras for line in project["optional-dependencies"][extra]]
    return [*stated["build-system"]["requires"], *project["dependencies"], *added]


if __name__ == "__main__":
    print(*requirements(sys.argv[1:]), sep="\n")
