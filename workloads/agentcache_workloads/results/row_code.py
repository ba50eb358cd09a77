"""Which code made a row: a hash of what the code does, and pairs of hashes whose rows were shown to be equal."""

import ast
import tomllib
from collections.abc import Iterator, Set
from functools import cache
from hashlib import sha256
from importlib.metadata import entry_points
from importlib.util import find_spec, resolve_name
from pathlib import Path

import msgspec

from agentcache.policy import GROUP
from agentcache.specs import Spec, split_layers

CODE = (
    "agentcache.model",
    "agentcache.cost",
    "agentcache.policy",
    "agentcache.residency",
    "agentcache.sim",
    "agentcache.specs",
)
"""The packages and modules whose code decides what a row says."""

EQUAL = Path(__file__).with_name("equal.toml")


class Equal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The code `old` at one commit and `new` at the other made `rows` rows, of `figures` figures, that are equal."""

    old: str
    new: str
    rows: int
    figures: int
    commits: tuple[str, str]


@cache
def code_hash(policy: str = "") -> str:
    """A hash of what the code of `CODE` does, and of a policy's own where it comes from another package.

    It is of the set of statements at the top of all modules (classes, functions, assignments), each by its syntax, and
    of the bytes of the profiles. So it counts what is computed: names, constants, defaults, operators, annotations. It
    does not count comments, docstrings, layout, imports, `__all__`, what is for type checkers alone, nor which file a
    statement is in, the file's name and its order there: code that is only moved keeps its hash. What this overlooks:
    a name imported from elsewhere that means another thing there, and statements whose exchange between two modules,
    or whose order, matters.
    """
    statements = set(_core())
    names = {Spec("policy", part).name for part in split_layers(policy)}
    for point in entry_points(group=GROUP):
        if point.name in names and not point.module.startswith(CODE):
            for path in _sources(point.module):
                statements |= statements_of(path.read_text(encoding="utf-8"))
    return combined(statements)


@cache
def standing(now: str) -> Set[str]:
    """The hashes of code whose rows stand where the code is `now`: itself, and all that lead to it over `EQUAL`."""
    return leading_to(now, equal_code(EQUAL))


def leading_to(now: str, pairs: Set[Equal]) -> Set[str]:
    """All hashes from which pairs lead from old to new, one after the other, to `now`; and `now`."""
    found = {now}
    while more := {pair.old for pair in pairs if pair.new in found} - found:
        found |= more
    return found


def equal_code(path: Path) -> Set[Equal]:
    """The pairs of a file of `[[equal]]` tables."""
    tables = tomllib.loads(path.read_text(encoding="utf-8")).get("equal", [])
    return msgspec.convert(tables, frozenset[Equal])


def statements_of(source: str) -> Set[str]:
    """The digests of the statements at the top of a module."""
    return {sha256(_said(node).encode()).hexdigest() for node in ast.parse(source).body if not _silent(node)}


def combined(digests: Set[str]) -> str:
    """One hash of all digests, whatever their order."""
    return sha256("".join(sorted(digests)).encode()).hexdigest()[:12]


@cache
def _core() -> Set[str]:
    found: set[str] = set()
    for package in CODE:
        spec = find_spec(package)
        assert spec and spec.origin
        for path in Path(spec.origin).parent.rglob("*") if spec.submodule_search_locations else [Path(spec.origin)]:
            if path.suffix == ".py":
                found |= statements_of(path.read_text(encoding="utf-8"))
            elif path.suffix == ".json":
                found.add(sha256(path.read_bytes()).hexdigest())
    return found


def _said(node: object) -> str:
    """Syntax as text: like `ast.dump`, whose text differs between versions of Python, without what is silent."""
    if isinstance(node, ast.AST):
        fields = [f"{name}={_said(value)}" for name, value in ast.iter_fields(node) if value is not None]
        return f"{type(node).__name__}({','.join(field for field in fields if not field.endswith('=[]'))})"
    if isinstance(node, list):
        return f"[{','.join(_said(item) for item in node if not _silent(item))}]"
    return repr(node)


def _silent(node: object) -> bool:
    """Whether a statement says nothing about what is computed."""
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Pass() | ast.Expr(ast.Constant(str())):
            return True
        case ast.If(test=ast.Name("TYPE_CHECKING"), orelse=[]):
            return True
        case ast.Assign(targets=[ast.Name("__all__")]):
            return True
    return False


def _sources(module: str) -> Set[Path]:
    """The file of a module, and those of its package that it imports, and that these import."""
    package, todo, known = module.partition(".")[0], [module], dict[str, Path]()
    while todo:
        name = todo.pop()
        if name in known or name.partition(".")[0] != package or not (spec := find_spec(name)) or not spec.origin:
            continue
        known[name] = Path(spec.origin)
        todo += _imported(ast.parse(known[name].read_text(encoding="utf-8")), spec.parent or "")
    return set(known.values())


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """The modules that a module of `package` imports; a name imported from a package may be a module of it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            yield module
            if module.partition(".")[0] == package.partition(".")[0]:
                spec = find_spec(module)
                if spec and spec.submodule_search_locations:
                    yield from (f"{module}.{alias.name}" for alias in node.names)
