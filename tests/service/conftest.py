"""One Ray cluster for all tests of the service."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """A small Ray cluster on this machine, ours alone; returns its address."""
    ray = pytest.importorskip("ray", reason="the service needs ray[serve]")
    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=100 << 20,
        include_dashboard=False,
        namespace="tests",
        configure_logging=False,
        log_to_driver=False,
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
