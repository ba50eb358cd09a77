"""The configuration of the service: what stands under `args` in a Serve configuration file."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from agentcache.errors import ConfigError


class ServiceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of one application, with their defaults.

    `model`: a folder, a hub name or one of the small models. `engine_kwargs`: vLLM's engine arguments by their Python
    names, as in `ray.serve.llm`. `agentcache`: the plug-in's options (`policy`, `admission`, ...).
    `replicas`: how many engines run; `autoscaling`: Serve's own `autoscaling_config` instead.
    `router`: `residency` (expected queue delay + rebuild seconds), `session` (sticky), `default` (Serve's own).
    `max_ongoing_requests`: of one replica; the next one waits at the ingress. `num_cpus`, `num_gpus`: reserved by one
    replica. `env`: environment of the replicas.
    `residency`: options of the residency service (`DirectoryConfig`), `namespace`: Ray's, in which it is found.
    `listen`: host and port at which the ingress listens itself; None: Serve's proxy stands before it.
    `keep_alive_s`: how long it keeps an idle connection; agents pause for as long as their tools run.
    `tenants_file`: JSON with each tenant's bearer tokens (`service.front.tenants`); None: no tokens are asked for.
    `max_body_bytes`: of a request; `requests_per_s` and `burst`: of one tenant; None: no limit.
    `control_per_s`: control calls of one tenant. `engine`: `module:Class` of what a replica runs.
    """

    model: str
    engine_kwargs: dict[str, Any] = {}
    agentcache: dict[str, Any] = {}
    replicas: int = 1
    autoscaling: dict[str, Any] | None = None
    router: Literal["residency", "session", "default"] = "residency"
    max_ongoing_requests: int = 256
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    env: dict[str, str] = {}
    residency: dict[str, Any] = {}
    namespace: str = "agentcache"
    listen: tuple[str, int] | None = None
    keep_alive_s: int = 600
    tenants_file: str | None = None
    max_body_bytes: int = 32 << 20
    requests_per_s: float | None = None
    burst: int = 100
    control_per_s: float = 200.0
    engine: str = "agentcache.vllm_plugin.launch.openai:OpenAIEngine"


def load_config(args: Mapping[str, Any]) -> ServiceConfig:
    """Read the options. Raises `ConfigError` for an unknown key or a value that cannot be used."""
    known = ServiceConfig.__struct_fields__
    hint = "known keys: " + ", ".join(known)
    if unknown := sorted(set(args) - set(known)):
        raise ConfigError(
            f"the service's configuration has unknown keys {', '.join(unknown)}; nothing was started", hint
        )
    try:
        config = msgspec.convert(dict(args), ServiceConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the service's configuration: {error}; nothing was started", hint) from error
    for name in ("replicas", "max_ongoing_requests", "max_body_bytes", "burst", "keep_alive_s"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)}, expected at least 1; nothing was started")
    for name in ("requests_per_s", "control_per_s"):
        if (per_s := getattr(config, name)) is not None and not per_s > 0:
            raise ConfigError(f"{name} is {per_s}, expected more than 0; nothing was started")
    if config.autoscaling is not None and config.replicas != 1:
        raise ConfigError("replicas and autoscaling are both given; nothing was started", hint="say one of them")
    return config
