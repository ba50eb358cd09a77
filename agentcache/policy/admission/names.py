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

from dataclasses import replace
from typing import Any

from agentcache.policy.admission.working_set import WorkingSetConfig
from agentcache.specs import Spec

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
    given = Spec("admission", spec)
    name = _ALIASES.get(given.name, given.name)
    if name not in _RULES:
        raise given.error(f"admission {spec!r} is unknown", "known: " + ", ".join(BUILT))
    rule = _RULES[name]
    values: dict[str, Any] = {}
    floors: dict[str, float] = {}
    first = "release_s" if name == "fixed-release" else ""
    for key, text in given.options(_OPTIONS.get(name, ()), first).items():
        if key.startswith("floor."):
            floors[key.removeprefix("floor.")] = given.number(key, text)
        elif key == "priority":
            values[key] = given.either(key, text)
        else:
            values[key] = text if key == "order" else given.number(key, text)
    if name == "fixed-release" and "release_s" not in values:
        raise given.error(
            f"admission {spec!r} names no release time",
            "give the seconds of pause after which a job gives up its place: fixed-release:60",
        )
    return replace(rule, **values, floors=tuple(floors.items())) if rule and (values or floors) else rule
