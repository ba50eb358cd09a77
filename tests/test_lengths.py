"""No function outside the tests is longer than `MOST` lines, but those in the table of CONTRIBUTING.md.

What branches too much is ruff's to find (C901).
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("agentcache", "integrations", "kernels", "scripts", "workloads")
MOST = 50
_ROW = re.compile(r"^\| `(\S+)` in `(\S+)` \| (\d+) \|", re.MULTILINE)


def lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From `def` on, without the docstring."""
    first = node.body[0]
    documented = ast.get_docstring(node) is not None
    return (node.end_lineno or 0) - node.lineno + 1 - ((first.end_lineno or 0) - first.lineno + 1) * documented


def long_functions() -> Iterator[tuple[tuple[str, str], int]]:
    for path in (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines(node) > MOST:
                yield (node.name, path.relative_to(ROOT).as_posix()), lines(node)


def test_the_table_of_long_functions_is_true() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = {(name, path): int(most) for name, path, most in _ROW.findall(text)}
    found = dict(long_functions())
    assert found.keys() - table.keys() == set(), f"over {MOST} lines: split them, or say in the table why they stay"
    assert table.keys() - found.keys() == set(), "no longer long: take them out of the table"
    grown = {one: count for one, count in found.items() if count > table[one]}
    assert not grown, f"longer than the table says: {grown}"


def test_lines_are_counted_without_the_docstring() -> None:
    source = 'def one(\n    a,\n):\n    """Says\n\n    what.\n    """\n    return a\n'
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef) and lines(node) == 4
