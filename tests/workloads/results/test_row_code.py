"""What counts as code that makes a row, what does not, and the pairs by which rows of older code stand."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import msgspec
import pytest

from agentcache_workloads.results import results_page, row_code
from agentcache_workloads.results.row_code import (
    EQUAL,
    Equal,
    code_hash,
    combined,
    equal_code,
    leading_to,
    standing,
    statements_of,
)

ONE = '''
"""A module."""

import heapq
from typing import TYPE_CHECKING

from made.up import Base

if TYPE_CHECKING:
    from made.other import Other

__all__ = ["Rule"]

LIMIT = 3
"""Of something."""


class Rule(Base):
    """A class."""

    def ask(self, price: float = 0.5) -> float:
        """Its answer."""
        from made.late import late

        return late(price) * LIMIT  # seconds
'''
TWO = """
from made.rules import Rule


def rule() -> "Rule":
    return Rule()
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A core of two modules and a profile."""
    for name, text in {"__init__.py": "", "one.py": ONE, "two.py": TWO, "gpu.json": '{"c0": 1}'}.items():
        (tmp_path / "made_core" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "made_core" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(row_code, "CODE", ("made_core",))
    return tmp_path / "made_core"


def forget() -> None:
    for cached in (row_code._core, code_hash, standing):
        cached.cache_clear()
    sys.modules.pop("guest", None)


def hash_now(policy: str = "") -> str:
    forget()
    return code_hash(policy)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    forget()


def moved(package: Path) -> None:
    (package / "deep").mkdir()
    (package / "one.py").rename(package / "deep" / "one.py")


def renamed(package: Path) -> None:
    (package / "one.py").rename(package / "zwei.py")
    (package / "gpu.json").rename(package / "other.json")


def merged(package: Path) -> None:
    (package / "two.py").write_text(TWO + ONE)
    (package / "one.py").unlink()


def split(package: Path) -> None:
    (package / "limit.py").write_text("LIMIT = 3\n")
    (package / "one.py").write_text(ONE.replace("LIMIT = 3\n", "from made_core.limit import LIMIT\n", 1))


@pytest.mark.parametrize("change", [moved, renamed, merged, split])
def test_where_code_stands_does_not_count(package: Path, change: Callable[[Path], None]) -> None:
    before = hash_now()
    change(package)
    assert hash_now() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# seconds", "# of time"),
        ('"""A class."""', '"""Another\n\n    story."""'),
        ('        """Its answer."""\n', ""),
        ('"""Of something."""\n', ""),
        ("import heapq\nfrom typing import TYPE_CHECKING", "from typing import TYPE_CHECKING\nimport heapq"),
        ("from made.up import Base", "from made.moved.up import Base, More"),
        ("from made.late import late", "from made.later import late"),
        ('["Rule"]', '["LIMIT", "Rule"]'),
        ("from made.other import Other", "from made.another import Other"),
        ("return late(price) * LIMIT", "return (late(price)\n            * LIMIT)"),
    ],
)
def test_what_computes_nothing_does_not_count(package: Path, old: str, new: str) -> None:
    before = hash_now()
    assert old in ONE
    (package / "one.py").write_text(ONE.replace(old, new))
    assert hash_now() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ("LIMIT = 3", "LIMIT = 3.0"),
        ("LIMIT = 3", 'LIMIT = "3"'),
        ("LIMIT = 3", "LIMIT = 3\nMORE = 3"),
        ("price: float = 0.5", "price: float = 0.25"),
        ("price: float = 0.5", "price: int = 0.5"),
        ("late(price) * LIMIT", "late(price) + LIMIT"),
        ("late(price) * LIMIT", "LIMIT * late(price)"),
        ("late(price)", "late(-price)"),
        ("class Rule(Base)", "class Rule"),
        ("def ask", "async def ask"),
        ("def ask", "@staticmethod\n    def ask"),
        ("return late", "late"),
    ],
)
def test_what_computes_counts(package: Path, old: str, new: str) -> None:
    before = hash_now()
    assert old in ONE
    (package / "one.py").write_text(ONE.replace(old, new))
    assert hash_now() != before


def test_a_profile_counts_by_its_content(package: Path) -> None:
    before = hash_now()
    (package / "gpu.json").write_text('{"c0": 2}')
    assert hash_now() != before


def test_nothing_but_names_and_places_is_left_of_an_empty_body() -> None:
    assert statements_of('class A:\n    """Doc."""') == statements_of("class A:\n    pass")
    assert statements_of("A = None") != statements_of("A = []") != statements_of("A = ()")
    assert combined(frozenset("ab")) == combined(frozenset("ba")) != combined(frozenset("a"))


def test_a_layer_from_another_package_is_code_of_its_rows() -> None:
    assert code_hash("vllm-lru") == code_hash("ttl:tau_s=3+asymcache") == code_hash()
    assert code_hash("continuum+lru") == code_hash("continuum:k=5+asymcache") != code_hash()


@pytest.mark.parametrize(
    "way", ["from guest.rules import Rule", "from .rules import Rule", "from . import rules", "import guest.rules"]
)
def test_a_policy_from_another_package_counts_with_what_it_imports(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    guest = tmp_path / "guest"
    guest.mkdir()
    for name, text in {"__init__": "", "policies": way + "\nA = 1", "rules": "LIMIT = 3", "beside": "B = 1"}.items():
        (guest / f"{name}.py").write_text(text)
    point = EntryPoint("guest", "guest.policies:Guest", "agentcache.policies")
    monkeypatch.setattr(row_code, "entry_points", lambda group: [point])
    before = hash_now("guest:x=1+lru")
    assert before != hash_now("lru") == hash_now()
    (guest / "beside.py").write_text("B = 2")
    (guest / "rules.py").write_text("# first\nLIMIT = 3  # three\n")
    assert hash_now("guest+lru") == before
    (guest / "rules.py").write_text("LIMIT = 4")
    assert hash_now("guest+lru") != before


def test_the_hash_is_the_same_in_every_process() -> None:
    asked = "from agentcache_workloads.results.row_code import code_hash; print(code_hash('continuum+lru'))"
    there = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True).stdout
    assert there.strip() == hash_now("continuum+lru")


def pair(old: str, new: str) -> Equal:
    return Equal(old, new, 60, 12, ("abc", "def"))


def test_rows_stand_over_pairs_one_after_the_other() -> None:
    pairs = {pair("a", "b"), pair("b", "c"), pair("c", "d"), pair("x", "c"), pair("d", "a")}
    assert leading_to("b", {pair("a", "b"), pair("b", "c")}) == {"a", "b"}
    assert leading_to("c", pairs) == {"a", "b", "c", "d", "x"}
    assert leading_to("x", pairs) == {"x"}


def test_the_kept_pairs_are_readable_and_of_enough_rows() -> None:
    for kept in equal_code(EQUAL):
        assert kept.old != kept.new and len(kept.old) == len(kept.new) == 12
        assert kept.rows > 0 < kept.figures


def test_a_pair_with_an_unknown_field_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "equal.toml"
    path.write_text('[[equal]]\nold = "a"\nnew = "b"\nrows = 1\nfigures = 1\ncommits = ["a", "b"]\n')
    assert equal_code(path) == {Equal("a", "b", 1, 1, ("a", "b"))}
    path.write_text(path.read_text() + "seen = true\n")
    with pytest.raises(msgspec.ValidationError, match="seen"):
        equal_code(path)


def test_a_page_counts_rows_of_code_that_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "equal.toml"
    kept.write_text(f'[[equal]]\nold = "a"\nnew = "{code_hash()}"\nrows = 1\nfigures = 1\ncommits = ["a", "b"]\n')
    monkeypatch.setattr(row_code, "EQUAL", kept)
    standing.cache_clear()
    rows = [{"code": made, "policy": "lru"} for made in ("a", "b", code_hash())]
    assert "1 rows were made by other code" in results_page._origin(rows, code_hash())
