"""A hundredth of the soak: after ten thousand turns every map of the engine's and the service's books is bounded."""

from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="the books are the plug-in's")

from tests import forked

SOAK = Path(__file__).parents[2] / "scripts" / "bench" / "soak" / "soak.py"


def soak(*args: str) -> str:
    done = forked.run(str(SOAK), *args)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    "args",
    [
        ("--link",),
        ("--link", "--stats", "--admission", "working-set:release_s=2", "--turns", "500", "3000"),
        ("--stats", "--policy", "ttl:tau_s=1000+asymcache", "--admission", "resident-first", "--turns", "500", "3000"),
        (
            "--stats",
            "--policy",
            "continuum+return-index",
            "--admission",
            "program-fcfs+retained",
            "--turns",
            "500",
            "5000",
        ),
    ],
    ids=["default", "working-set", "ttl", "continuum"],
)
def test_an_engines_books_are_bounded(args: tuple[str, ...]) -> None:
    shown = soak("--part", "engine", "--turns", "1000", "10000", *args)
    assert "ContextBook._contexts" in shown
    assert "Pacer._first_token_s" in shown


def test_the_services_books_are_bounded() -> None:
    assert "Tally._ended" in soak("--part", "service", "--turns", "1000", "10000")
