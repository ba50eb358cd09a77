"""The options of the plug-in: what stands under `agentcache` in vLLM's `--additional-config`."""

import math
from typing import Any, Literal

import msgspec

from agentcache.api.messages import MAX_ID_BYTES
from agentcache.cost import CostModel, CostProfile
from agentcache.errors import ConfigError
from agentcache.policy import make_online_policy
from agentcache.policy.admission.names import parse_admission
from agentcache.policy.chunking import parse_chunking
from agentcache.vllm_plugin.accounts.lines import Lines


class EngineOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of one engine, with their defaults.

    `policy`: name of an eviction policy, with options after a colon (`asymcache:lifespan_s=30`).
    `mode`: `fused` rebuilds several holes of a request in one step, where our worker class runs; `sequential` one.
    `admission`: which turns may run, in what order: `fcfs` is vLLM's own, `working-set` holds jobs that do not fit.
    `profile`: path of a cost profile (agentcache-cost/1); None estimates from the model's shape.
    `chunking`: prefill tokens of a step while decodes run: `adaptive:tpot=50ms`, `paper`, `fixed:N`, or vLLM's (`off`).
    `max_segments`: runs of missing tokens of one request; over it, resident runs that save least are computed again.
    `mla_holes`: reuse behind holes for models with MLA too, in sequential mode; no GPU has shown it yet.
    `max_contexts`: idle contexts remembered.
    `host_memory`: GiB of host memory below the pool, for blocks that leave it, of each data-parallel engine; None takes
    none. `host_policy`: their order, by the name of a policy.
    `receipts`: a file that gets one JSON line a turn: what was reused, what was missing and why; None writes none.
    `service`: the Ray cluster whose residency service to join: `auto` or `HOST:PORT`, and `/NAMESPACE` if it is not
    the usual one; None joins none. `engine`: what this engine is called there; None makes a name up.
    `level`: `holes`, `order` or `admit` asks for that level and stops start-up where it cannot be had; None takes the
    highest that can. `on_unsupported`: where that is not `holes`, `lower` runs at it, `refuse` stops start-up, `stock`
    leaves the engine to vLLM.
    """

    policy: str = "return-index"
    mode: Literal["fused", "sequential"] = "fused"
    admission: str = "fcfs"
    profile: str | None = None
    chunking: str = "off"
    max_segments: int = 8
    mla_holes: bool = False
    max_contexts: int = 4096
    host_memory: float | None = None
    host_policy: str = "return-index"
    receipts: str | None = None
    service: str | None = None
    engine: str | None = None
    level: Literal["holes", "order", "admit"] | None = None
    on_unsupported: Literal["lower", "refuse", "stock"] = "lower"


def load_options(additional_config: Any) -> EngineOptions:
    """Read the options out of vLLM's additional configuration (a dict or None).

    Raises `ConfigError` for an unknown key or a value of the wrong type.
    """
    given = (additional_config or {}).get("agentcache", {})
    known = EngineOptions.__struct_fields__
    hint = "known keys: " + ", ".join(known)
    if not isinstance(given, dict):
        raise ConfigError(f"additional-config 'agentcache' is {given!r}, expected an object of options", hint)
    if unknown := sorted(set(given) - set(known)):
        raise ConfigError(f"additional-config 'agentcache' has unknown keys {', '.join(unknown)}; not started", hint)
    try:
        options = msgspec.convert(given, EngineOptions)
    except msgspec.ValidationError as error:
        raise ConfigError(f"additional-config 'agentcache': {error}; not started", hint) from error
    for name in ("max_segments", "max_contexts"):
        if (value := getattr(options, name)) < 1:
            raise ConfigError(f"{name} is {value}, expected at least 1; not started", hint)
    if options.host_memory is not None and not (math.isfinite(options.host_memory) and options.host_memory > 0):
        raise ConfigError(f"host_memory is {options.host_memory} GiB, expected more than 0; not started", hint)
    if options.engine is not None and (not 0 < len(options.engine) <= MAX_ID_BYTES or "/" in options.engine):
        raise ConfigError(f"engine is {options.engine!r}, expected a short name without a slash; not started", hint)
    return options


def check_options(options: EngineOptions, profile: CostProfile | None = None) -> None:
    """Try what an engine would do with the options at start-up, before one is started. Raises `ConfigError`.

    `profile`: what a model's prices are, where they are known.
    """
    parse_admission(options.admission)
    parse_chunking(options.chunking)
    if options.service is not None:
        parse_service(options.service)
    if options.receipts is not None:
        Lines(options.receipts, bytes).close()
    if profile is None:
        profile = CostProfile.load(options.profile) if options.profile else CostProfile(c_lin=1.0, c_att=1.0)
    for name in (options.policy, options.host_policy):
        make_online_policy(name, CostModel(profile, block_size=16), capacity_blocks=1)


def parse_service(spec: str) -> tuple[str, str]:
    """Split `auto`, `HOST:PORT`, `auto/NAMESPACE` or `HOST:PORT/NAMESPACE`. Raises `ConfigError`."""
    address, slash, namespace = spec.partition("/")
    host, colon, port = address.rpartition(":")
    if (address != "auto" and not (host and colon and port.isdigit())) or (slash and not namespace):
        raise ConfigError(
            f"service is {spec!r}, expected auto or HOST:PORT of a Ray cluster, and /NAMESPACE if it is not the usual "
            "one; not started"
        )
    return address, namespace or "agentcache"
