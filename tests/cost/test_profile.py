"""A profile is read back as it was written, and anything else is refused with a reason."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from agentcache.cost import CostProfile
from agentcache.errors import ConfigError

PROFILE = CostProfile(c_lin=1.09e-4, c_att=3.1e-9, c0=0.01, model="m", device="d", block_size=16, r2=0.9995, n_points=9)


def test_reads_back_what_it_wrote(tmp_path: Path) -> None:
    PROFILE.save(tmp_path / "p.json")
    assert json.loads((tmp_path / "p.json").read_text())["schema"] == "agentcache-cost/1"
    assert CostProfile.load(tmp_path / "p.json") == PROFILE


def write(path: Path, **fields: Any) -> Path:
    path.write_text(json.dumps({"schema": "agentcache-cost/1", "c_lin": 1e-4, "c_att": 1e-9} | fields))
    return path


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"schema": "agentcache-cost/9"}, "schema 'agentcache-cost/9'"),
        ({"c_lin": -1.0}, "c_lin is -1.0"),
        ({"c_att": math.inf}, "c_att is inf"),
        ({"c0": math.nan}, "c0 is nan"),
        ({"c0": "fast"}, "c0 is 'fast'"),
        ({"c0": True}, "c0 is True"),
        ({"c_lin": 0, "c_att": 0}, "both 0"),
        ({"c_segment": 0.1}, "unknown fields c_segment"),
    ],
)
def test_refuses(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match="not used") as error:
        CostProfile.load(write(tmp_path / "p.json", **fields))
    assert said in error.value.message


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"schema": "agentcache-cost/1", "c_lin": 1}'])
def test_refuses_a_file_that_is_no_profile(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ConfigError) as error:
        CostProfile.load(tmp_path / "p.json")
    assert error.value.hint


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json cannot be read"):
        CostProfile.load(tmp_path / "none.json")
