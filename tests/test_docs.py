"""The documents keep their promises: commands parse, links lead somewhere, versions agree."""

import ast
import re
import shlex
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer

import agentcache
from agentcache.cli.main import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted(
    page
    for page in (
        *ROOT.glob("*.md"),
        *(p for top in ("docs", "workloads", "kernels") for p in (ROOT / top).rglob("*.md")),
    )
)


def code_lines(text: str) -> list[str]:
    """The lines of all fenced blocks, continued lines joined, prompts and comments off."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [line.removeprefix("$ ").partition(" #")[0].strip() for line in joined.splitlines()]


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_two_commands_set_it_up() -> None:
    first_block = re.findall(r"^```\w*\n.*?^```", section("Quick start"), flags=re.MULTILINE | re.DOTALL)[0]
    assert code_lines(first_block) == ["make demo", "make test"]


def test_make_knows_every_target_that_is_named() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in PAGES:
        text = page.read_text()
        named = {match for line in code_lines(text) for match in re.findall(r"^make ([a-z]+)", line)}
        named |= set(re.findall(r"`make ([a-z]+)`", text))
        assert named <= targets, f"{page} names {named - targets}"


COMMANDS = sorted({line for page in PAGES for line in code_lines(page.read_text()) if line.startswith("agentcache ")})


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    group: Any = typer.main.get_command(app)
    context = group.make_context("agentcache", [], resilient_parsing=True)
    name, command, args = group.resolve_command(context, shlex.split(line)[1:])
    command.make_context(name, args)  # raises for a flag that the command does not have, or a value it cannot take


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", page.read_text())
    files = [target.partition("#")[0] for pair in targets for target in pair if target and "://" not in target]
    assert [file for file in files if file and not (page.parent / file).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_configurations_name_is_there(page: Path) -> None:
    """Modules and what they define, as `module:name` or `module.Class`."""
    for module, name in re.findall(r"\b(agentcache(?:\.[a-z_]+)+)(?::|\.(?=[A-Z]))(\w+)", page.read_text()):
        path = ROOT / module.replace(".", "/")
        source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        assert re.search(rf"^(class|def) {name}\b|\bimport .*\b{name}\b", source.read_text(), re.MULTILINE), (
            f"{module}:{name}"
        )


def defined(path: Path) -> set[str]:
    """The classes and functions of a file, and `Class.member` for methods and the values of an enumeration."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        for member in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(member, ast.FunctionDef):
                names.add(f"{node.name}.{member.name}")
            elif isinstance(member, ast.Assign):
                names |= {f"{node.name}.{target.id}" for target in member.targets if isinstance(target, ast.Name)}
    return names


def test_the_walk_names_what_there_is() -> None:
    text = (ROOT / "docs" / "walk.md").read_text()
    assert text.count("\n") <= 60
    quoted = set(re.findall(r"`([^`]+)`", text)) - {"agentcache/", "Class.method"}
    files = {name for name in quoted if name.endswith(".py")}
    assert [name for name in sorted(files) if not (ROOT / "agentcache" / name).is_file()] == []
    known = set().union(*(defined(ROOT / "agentcache" / name) for name in files))
    assert sorted(quoted - files - known) == []
    unused = [name for name in sorted(files) if not defined(ROOT / "agentcache" / name) & quoted]
    assert unused == [], "the walk names these files, but nothing that is in them"


def test_versions_agree_and_the_changelog_knows_this_one() -> None:
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert agentcache.__version__ == stated == version("agentcache-vllm")
    assert re.search(rf"^## \[{re.escape(stated)}\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)


def test_nobody_is_told_to_install_the_other_product() -> None:
    for page in PAGES:
        assert not re.search(r"pip install [^\n`]*\bagentcache\b(?!-vllm)", page.read_text()), page
