"""A specification becomes flags, and flags a specification."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from msgspec import Struct
from typer import Argument, Option
from typer.testing import CliRunner

from agentcache.errors import ConfigError
from agentcache_workloads.replay.commands import peer_servers, validate
from agentcache_workloads.replay.commands.flags import check_choices, flags_of, gathered, taking
from agentcache_workloads.replay.spec import Options, Remote, RunSetting, RunSpec, Selection


class Oven(Struct, frozen=True):
    url: Annotated[str, Option(help="Of an oven.")]
    heat_s: Annotated[float, Option("--heat", min=0.0, help="How long.")] = 60.0


class Cake(Struct, frozen=True, kw_only=True):
    name: Annotated[Path, Argument(help="Of the cake.")]
    taste: Annotated[Literal["sweet", "bitter"], Option(help="Of the cake.")] = "sweet"
    oven: Oven | None = None
    layers: Annotated[int | None, Option(min=1)] = None
    weight_kg: float = 1.0  # nobody is asked


def test_a_field_with_a_flag_is_one_and_a_part_gives_its_own() -> None:
    flags = {flag.name: (flag.default, flag.choices) for flag in flags_of(Cake)}
    assert list(flags) == ["name", "taste", "url", "heat", "layers"]
    assert flags["taste"] == ("sweet", ("sweet", "bitter"))
    assert (flags["url"], flags["heat"]) == ((None, ()), (60.0, ()))


def test_a_part_is_there_when_what_it_needs_is_given() -> None:
    assert gathered(Cake, {"name": Path("a"), "url": None, "heat": 60.0}) == Cake(name=Path("a"))
    whole = gathered(Cake, {"name": Path("a"), "url": "u", "heat": 5.0, "layers": 2})
    assert whole == Cake(name=Path("a"), oven=Oven("u", 5.0), layers=2)


def test_what_is_said_of_a_part_that_is_absent_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--heat is 5.0, and --url is missing, without which it says nothing"):
        gathered(Cake, {"name": Path("a"), "url": None, "heat": 5.0})


def test_a_command_takes_the_whole_and_users_see_flags() -> None:
    app, taken = typer.Typer(), []

    @app.command()
    @taking(Cake, only=("name", "heat", "url", "taste"))
    def bake(cake: Cake, twice: Annotated[bool, Option("--twice")] = False) -> None:
        taken.append((cake, twice))

    assert CliRunner().invoke(app, ["nut", "--url", "u", "--heat", "3", "--taste", "odd", "--twice"]).exit_code == 0
    assert taken == [(Cake(name=Path("nut"), oven=Oven("u", 3.0), taste="odd"), True)]  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"--taste 'odd' is not available; nothing was started"):
        check_choices(taken[0][0])
    for bad in (["nut", "--heat", "-1"], ["nut", "--layers", "2"], []):
        assert CliRunner().invoke(app, bad).exit_code == 2


def test_choices_of_a_part_are_checked_too() -> None:
    check_choices(Options(trace=Path("t")))
    with pytest.raises(ConfigError, match="--dialect 'any'"):
        check_choices(Options(trace=Path("t"), remote=Remote("http://x", dialect="any")))  # type: ignore[arg-type]


def test_every_flag_has_a_name_of_its_own_and_a_doc() -> None:
    flags = list(flags_of(Options))
    assert len({flag.name for flag in flags}) == len(flags)
    assert all(flag.info.help for flag in flags)


@pytest.mark.parametrize("said", [peer_servers.SAID, validate.SAID])
def test_the_flags_that_other_commands_have_are_flags(said: tuple[str, ...]) -> None:
    assert set(said) <= {flag.name for flag in flags_of(Options)}


def test_what_is_said_once_reaches_the_run_under_its_name() -> None:
    """Nothing of it is copied by hand: a field more in the setting is one more in both."""
    setting = set(RunSetting.__struct_fields__)
    assert setting <= set(Options.__struct_fields__) & set(RunSpec.__struct_fields__)
    assert {"chunking", "selection", "remote"} <= setting
    given = gathered(Options, {"trace": Path("t"), "chunking": "fixed:64", "max_pause": 2.0, "sessions": 3})
    assert (given.chunking, given.selection) == ("fixed:64", Selection(sessions=3, max_pause_s=2.0))
