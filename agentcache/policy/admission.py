"""The names of admission: which turns may run at once."""

from agentcache.errors import ConfigError

BUILT = ("fcfs",)
"""`fcfs` is the engine's own order: every turn may run."""

PLANNED = ("priority", "program", "resident-first", "fixed-release", "working-set")


def check_admission(name: str) -> str:
    """Return the name of an admission that is built; raise `ConfigError` for any other."""
    if name in BUILT:
        return name
    state = "is not built yet" if name.split(":")[0] in PLANNED else "is unknown"
    raise ConfigError(f"admission {name!r} {state}; nothing was started", hint="available: " + ", ".join(BUILT))
