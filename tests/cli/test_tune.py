"""`agentcache tune` without a GPU: a sentence, and the tables stay as they are."""

import pytest
from typer.testing import CliRunner

from agentcache.cli.main import app

torch = pytest.importorskip("torch", reason="the kernels are for torch")


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it would tune")
def test_without_a_gpu_nothing_is_tuned() -> None:
    result = CliRunner().invoke(app, ["tune"])
    assert result.exit_code == 2
    assert "GPU is not there" in result.output
