"""The tables of tile shapes: every head size finds one, and a GPU that nobody tuned for finds the default."""

import json
from pathlib import Path

import pytest
import torch
import triton

from agentcache_kernels.arguments import DTYPES, HEAD_DIMS
from agentcache_kernels.errors import ArgumentError
from agentcache_kernels.tables import FOLDER, Config, Table, slug, table_for


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_every_head_size_and_dtype_has_a_shape(path: Path) -> None:
    table = Table(path)
    for d in HEAD_DIMS:
        for dtype in DTYPES:
            for rows in (1, 16, 17, 64, 65, 10**9):
                config = table.find(dtype.itemsize, triton.next_power_of_2(d), rows)
                assert config.block_m >= 16 and config.block_n >= 16


def test_more_rows_take_the_next_larger_bucket() -> None:
    table = Table(FOLDER / "default.json")
    assert table.find(2, 128, 16).block_m == 16
    assert table.find(2, 128, 17).block_m == 64
    assert table.find(2, 128, 10**9).block_m == 128


def test_an_unknown_gpu_takes_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU of Tomorrow")
    assert table_for(torch.device("cuda", 0)).name == "default"
    table_for.cache_clear()


def test_names_of_devices_become_names_of_files() -> None:
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "x.json"
    broken.write_text('{"schema": "other"}')
    for path in (broken, tmp_path / "missing.json"):
        with pytest.raises(ArgumentError, match="expected a file of schema"):
            Table(path)
    with pytest.raises(ArgumentError, match="without an entry"):
        Table(FOLDER / "default.json").find(8, 128, 1)


def test_a_shape_that_no_device_takes_is_refused(tmp_path: Path) -> None:
    for wrong in ((24, 16, 4, 1), (8, 16, 4, 1), (16, 2048, 4, 1), (16, 16, 3, 1), (16, 16, 4, 0), (16.0, 16, 4, 1)):
        with pytest.raises(ArgumentError, match="expected a"):
            Config(*wrong)  # type: ignore[arg-type]
    head = json.loads((FOLDER / "default.json").read_text())
    head["entries"][0]["block_m"] = 100
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(head))
    with pytest.raises(ArgumentError, match="block_m is 100"):
        Table(bad)
