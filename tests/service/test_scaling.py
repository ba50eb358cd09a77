"""The number of replicas follows the load while jobs run."""

import pytest

from tests.service.children import outcome

pytest.importorskip("ray", reason="the application is Ray Serve's")
pytestmark = pytest.mark.ray


def test_replicas_come_and_go_and_no_turn_is_lost() -> None:
    told, _ = outcome("tests.service.scaling", "codes", timeout_s=580)
    assert told["grown"] == 2 and told["shrunk"] == 1
    assert set(told["codes"]) == {"200"}
