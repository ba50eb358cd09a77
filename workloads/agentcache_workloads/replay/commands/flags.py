"""Flags out of specifications: a command takes a whole one, and its users see a flag for each field that has one."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo, fields
from typer.models import OptionInfo, ParameterInfo

from agentcache.errors import ConfigError
from agentcache_workloads.replay.engines.base import one_of

Command = Callable[..., None]
S = TypeVar("S", bound=Struct)


@dataclass(frozen=True, slots=True)
class Flag:
    """How users give a field: `name` as they write it, with underscores. `choices`: all that it can be, if few."""

    name: str
    kind: Any
    default: Any
    info: ParameterInfo
    choices: tuple[str, ...]

    @property
    def parameter(self) -> Parameter:
        """As a command declares it; what is no choice is refused by `check_choices`, in one sentence."""
        kind = str if self.choices else self.kind
        return Parameter(self.name, Parameter.KEYWORD_ONLY, default=self.default, annotation=Annotated[kind, self.info])


def taking(kind: type[Struct], only: Collection[str] | None = None) -> Callable[[Command], Command]:
    """Decorates a command whose first argument is a `kind`: in its place stand flags, all or those of these names.

    Its other parameters stay flags of their own, behind them.
    """

    def decorate(command: Command) -> Command:
        own = [one.replace(kind=Parameter.KEYWORD_ONLY) for one in list(signature(command).parameters.values())[1:]]
        flags = [flag.parameter for flag in flags_of(kind) if only is None or flag.name in only]

        @wraps(command)
        def run(**given: Any) -> None:
            rest = {one.name: given.pop(one.name) for one in own}
            command(gathered(kind, given), **rest)

        parameters = [*flags, *own]
        vars(run)["__signature__"] = Signature(parameters)
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return decorate


def flags_of(kind: type[Struct], optional: bool = False) -> Iterator[Flag]:
    """The flags of a specification, and in their place those of its parts; of an `optional` one none must be given."""
    for field in fields(kind):
        if part := _part(field):
            yield from flags_of(part, optional=True)
        elif flag := _flag(field, optional):
            yield flag


def gathered(kind: type[S], given: Mapping[str, Any]) -> S:
    """A specification out of values by the names of their flags; a part whose required fields are missing is absent."""
    return kind(**_values(kind, given))


def _values(kind: type[Struct], given: Mapping[str, Any]) -> dict[str, Any]:
    values = {}
    for field in fields(kind):
        if part := _part(field):
            inner = _values(part, given)
            if all(inner.get(one.name) is not None for one in fields(part) if one.required):
                values[field.name] = part(**inner)
            else:
                _refuse_strays(part, inner)
        elif (flag := _flag(field)) and flag.name in given:
            values[field.name] = given[flag.name]
    return values


def _refuse_strays(part: type[Struct], given: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for flags of a part that is absent: they would say nothing."""
    said = [one for one in fields(part) if given.get(one.name) not in (None, one.default)]
    if said:
        missing = next(one for one in fields(part) if one.required and given.get(one.name) is None)
        raise ConfigError(
            f"{_dashed(said[0])} is {given[said[0].name]}, and {_dashed(missing)} is missing, without which it says "
            "nothing; nothing was started",
            hint=f"give {_dashed(missing)} too, or leave it out",
        )


def _dashed(field: FieldInfo) -> str:
    flag = _flag(field)
    return f"--{(flag.name if flag else field.name).replace('_', '-')}"


def check_choices(asked: Struct) -> None:
    """Raise `ConfigError` for a value that is none of its field's choices."""
    for field in fields(asked):
        value = getattr(asked, field.name)
        if isinstance(value, Struct):
            check_choices(value)
        elif (flag := _flag(field)) and flag.choices:
            one_of(f"--{flag.name.replace('_', '-')}", value, flag.choices)


def _part(field: FieldInfo) -> type[Struct] | None:
    """The specification that a field holds, if it may hold one."""
    held = (field.type, *get_args(field.type))
    return next((one for one in held if isinstance(one, type) and issubclass(one, Struct)), None)


def _flag(field: FieldInfo, optional: bool = False) -> Flag | None:
    if get_origin(field.type) is not Annotated:
        return None
    kind, info = get_args(field.type)
    name = field.name
    if isinstance(info, OptionInfo) and isinstance(info.default, str):  # `--a-name` of its own
        name = info.default.lstrip("-").replace("-", "_")
    default = field.default
    if default is NODEFAULT:
        kind, default = (kind | None, None) if optional else (kind, Parameter.empty)
    return Flag(name, kind, default, info, get_args(kind) if get_origin(kind) is Literal else ())
