"""Admission, how it is named: which turns may run at once, and in what order. `NAME` or `NAME:option=value,...`.

    fcfs                   the engine's own order; every turn may run (also request-fcfs)
    priority               by the turns' own priority, then as they came
    program                by the arrival of their jobs: returning turns before new jobs (also program-fcfs)
    program-fcfs+retained  the same, but first come turns whose context is retained (Continuum, arXiv:2511.02230)
    resident-first         by the share of the prompt that is resident, largest first
    working-set            jobs whose contexts do not fit the pool together are held; in the order of their arrival
    fixed-release:S        the same, and a paused job gives up its place after S seconds

Every turn may run but under the last two. Turns' own priorities come first where somebody asked for that: the engine's
own order is by priority (vLLM's `--scheduling-policy priority`), the rule is `priority`, or another one is told so by
`priority=true`. Else nobody jumps a queue that is to be first come, first served.
"""

import math
from dataclasses import replace
from typing import Any

from agentcache.errors import ConfigError
from agentcache.policy.admission.working_set import WorkingSetConfig

_RULES = {
    "fcfs": None,
    "priority": WorkingSetConfig(order="turn", footprints=False, priority=True),
    "program": WorkingSetConfig(order="program", footprints=False),
    "program-fcfs+retained": WorkingSetConfig(order="retained", footprints=False),
    "resident-first": WorkingSetConfig(order="resident", footprints=False),
    "fixed-release": WorkingSetConfig(),
    "working-set": WorkingSetConfig(),
}
_ALIASES = {"request-fcfs": "fcfs", "program-fcfs": "program"}

BUILT = (*_RULES, *_ALIASES)
"""All names."""

_NUMBERS = ("release_s", "window_s", "theta", "max_release_s", "headroom", "growth_quantile", "max_hold_s")
_OPTIONS = {
    "program": ("priority",),
    "program-fcfs+retained": ("priority",),
    "resident-first": ("priority",),
    "working-set": ("order", "priority", *_NUMBERS, "floor.TENANT"),
    "fixed-release": ("priority",)
    + tuple(name for name in _NUMBERS if name not in ("window_s", "theta", "max_release_s"))
    + ("floor.TENANT",),
}


def parse_admission(spec: str) -> WorkingSetConfig | None:
    """The rule that a name stands for; None for `fcfs`, which needs none.

    Raises `ConfigError` for an unknown name (listing the known ones), an unknown option, or a bad value.
    """
    given, _, rest = spec.partition(":")
    name = _ALIASES.get(given, given)
    if name not in _RULES:
        raise ConfigError(f"admission {spec!r} is unknown; nothing was started", hint="known: " + ", ".join(BUILT))
    rule = _RULES[name]
    known = _OPTIONS.get(name, ())
    values: dict[str, Any] = {}
    floors: dict[str, float] = {}
    for number, part in enumerate(filter(None, rest.split(","))):
        key, equals, text = part.partition("=")
        if name == "fixed-release" and not equals and not number:
            key, text = "release_s", part
        if key in values or key.removeprefix("floor.") in floors:
            raise ConfigError(f"admission {spec!r} gives {key} twice; nothing was started")
        if key.startswith("floor.") and "floor.TENANT" in known:
            floors[key.removeprefix("floor.")] = _number(spec, key, text)
        elif key not in known or key == "floor.TENANT":
            listed = ", ".join(known) or "none"
            raise ConfigError(
                f"admission {given!r} has no option {key!r}; nothing was started", hint=f"its options: {listed}"
            )
        elif key == "priority":
            values[key] = _true(spec, key, text)
        else:
            values[key] = text if key == "order" else _number(spec, key, text)
    if name == "fixed-release" and "release_s" not in values:
        raise ConfigError(
            f"admission {spec!r} names no release time; nothing was started",
            hint="give the seconds of pause after which a job gives up its place: fixed-release:60",
        )
    return replace(rule, **values, floors=tuple(floors.items())) if rule and (values or floors) else rule


def _true(spec: str, key: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise ConfigError(f"admission {spec!r}: {key} is {text!r}, expected true or false; nothing was started")
    return text == "true"


def _number(spec: str, key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"admission {spec!r}: {key} is {text!r}, expected a finite number; nothing was started")
    return value
