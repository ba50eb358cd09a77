"""The service: what is resident where in a cluster, and the OpenAI API over its replicas, on Ray and Ray Serve."""

from typing import Any


def build_app(args: dict[str, Any]) -> Any:
    """The Ray Serve application of a configuration file: `import_path: agentcache.service:build_app`.

    `args` are the fields of `ServiceConfig`. Raises `ConfigError` for what cannot be used.
    """
    from agentcache.service.app import application
    from agentcache.service.config import load_config

    return application(load_config(args))
