"""Admission, how it is named: which turns may run at once. `NAME` or `NAME:option=value,option=value`."""

from dataclasses import fields

from agentcache.errors import ConfigError
from agentcache.policy.working_set import WorkingSetConfig

BUILT = ("fcfs", "working-set")
"""`fcfs` is the engine's own order: every turn may run. `working-set` is the rule of `WorkingSetConfig`."""

PLANNED = ("priority", "program", "resident-first", "fixed-release")


def parse_admission(spec: str) -> WorkingSetConfig | None:
    """The rule that a name stands for; None for `fcfs`, which needs none.

    Raises `ConfigError` for a name that is not built (listing those that are), an unknown option, or a bad value.
    """
    name, _, rest = spec.partition(":")
    if name not in BUILT:
        state = "is not built yet" if name in PLANNED else "is unknown"
        raise ConfigError(f"admission {spec!r} {state}; nothing was started", hint="available: " + ", ".join(BUILT))
    known = [field.name for field in fields(WorkingSetConfig)] if name == "working-set" else []
    options: dict[str, float] = {}
    for part in filter(None, rest.split(",")):
        key, _, text = part.partition("=")
        if key not in known:
            raise ConfigError(
                f"admission {name!r} has no option {key!r}; nothing was started",
                hint="its options: " + (", ".join(known) or "none"),
            )
        try:
            options[key] = float(text)
        except ValueError:
            raise ConfigError(
                f"admission {spec!r}: {key} is {text!r}, expected a number; nothing was started"
            ) from None
    return WorkingSetConfig(**options) if name == "working-set" else None
