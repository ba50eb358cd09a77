"""The service's configuration."""

from typing import Any

import pytest

from agentcache.errors import ConfigError
from agentcache.service.config import load_config


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({}, "model"),
        ({"model": "m", "replica": 2}, "unknown keys replica"),
        ({"model": "m", "replicas": "two"}, "replicas"),
        ({"model": "m", "replicas": 0}, "at least 1"),
        ({"model": "m", "router": "random"}, "random"),
        ({"model": "m", "keep_alive_s": 0}, "at least 1"),
        ({"model": "m", "control_per_s": 0}, "more than 0"),
        ({"model": "m", "requests_per_s": -1}, "more than 0"),
        ({"model": "m", "replicas": 2, "autoscaling": {}}, "both"),
    ],
)
def test_what_cannot_be_used_is_a_sentence(args: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(args)


def test_the_rest_has_defaults() -> None:
    config = load_config({"model": "m", "engine_kwargs": {"max_model_len": 64}})
    assert (config.replicas, config.router, config.tenants_file) == (1, "residency", None)
    assert config.keep_alive_s >= 300  # an agent whose tools run for minutes is not disconnected
