"""The way of metrics from an engine's process to a page, and what must not happen to either of the two."""

import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from agentcache.vllm_plugin.accounts import page
from agentcache.vllm_plugin.accounts.metrics import METRICS, Meter

HOLDS = "agentcache_hold_seconds"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    return tmp_path


def made(meter: Meter, engine: str = "0") -> page.Page:
    return page.Page(meter, lambda: meter.set("agentcache_held_turns", 3), "tiny", engine)


def shown() -> str:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(page.Shown())  # type: ignore[arg-type]
    return generate_latest(registry).decode()


def filled() -> Meter:
    meter = Meter()
    meter.count("agentcache_reused_tokens_total", "gpu", "prefix", by=48)
    for seconds in (0.002, 0.002, 40.0):
        meter.observe(HOLDS, seconds, "bound")
    return meter


def test_what_the_meter_holds_is_on_the_page_as_prometheus_itself_would_say_it() -> None:
    made(filled()).write()
    said = shown()
    assert 'agentcache_reused_tokens_total{engine="0",model_name="tiny",place="prefix",tier="gpu"} 48.0' in said
    assert 'agentcache_held_turns{engine="0",model_name="tiny"} 3.0' in said
    own = CollectorRegistry()
    histogram = Histogram(
        HOLDS, METRICS[HOLDS].text, ("end", "engine", "model_name"), buckets=METRICS[HOLDS].buckets, registry=own
    )
    for seconds in (0.002, 0.002, 40.0):
        histogram.labels("bound", "0", "tiny").observe(seconds)
    expected = {line for line in generate_latest(own).decode().splitlines() if "_created" not in line}

    def normal(line: str) -> tuple[str, ...]:
        return tuple(sorted(line.replace("{", ",").replace("}", ",").split(",")))

    assert {normal(line) for line in expected} <= {normal(line) for line in said.splitlines()}


def test_counts_that_go_on_are_told_as_they_stand() -> None:
    meter = filled()
    told = made(meter)
    told.write()
    meter.count("agentcache_reused_tokens_total", "gpu", "prefix", by=2)
    told.write()
    assert 'place="prefix",tier="gpu"} 50.0' in shown()
    told.close()
    assert "agentcache" not in shown()
    assert not list(page.folder(os.getpid()).parent.glob("*"))


def test_files_that_somebody_tidied_up_come_back() -> None:
    told = made(filled())
    told.write()
    for path in page.folder(os.getpid()).iterdir():
        path.unlink()
    assert "agentcache" not in shown()
    told.write()
    assert 'place="prefix",tier="gpu"} 48.0' in shown()


def test_a_page_that_is_asked_for_is_of_this_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "PATIENCE_S", 240.0)  # here the engine does answer, however busy the machine is
    meter = filled()
    told = made(meter)
    told.start()
    while "agentcache" not in shown():
        pass
    for count in range(49, 69):
        meter.count("agentcache_reused_tokens_total", "gpu", "prefix", by=1)
        assert f'place="prefix",tier="gpu"}} {count}.0' in shown()
    told.close()


def test_an_engine_that_does_not_answer_is_not_waited_for() -> None:
    told = made(filled())
    told.write()
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(page._bell(told._folder, told._name))
        deaf.listen()
        assert 'place="prefix",tier="gpu"} 48.0' in shown()


def test_a_page_goes_on_by_itself() -> None:
    meter = filled()
    told = made(meter)
    told.start()
    told.close()  # it has written once by then
    assert not told._thread.is_alive()
    assert told._written


def _serve(engine: str, pipe: "multiprocessing.connection.Connection", place: str) -> None:
    tempfile.tempdir = place
    told = made(filled(), engine)
    told.write()
    pipe.send(os.getpid())
    pipe.recv()
    if engine == "0":
        told.close()


def test_engines_in_processes_of_their_own_are_told_apart_and_leave_with_their_process(elsewhere: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    engines = []
    for engine in ("0", "1"):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=_serve, args=(engine, theirs, str(elsewhere)))
        process.start()
        engines.append((process, ours))
    for _, pipe in engines:
        pipe.recv()
    said = shown()
    for engine in ("0", "1"):
        assert f'agentcache_held_turns{{engine="{engine}",model_name="tiny"}} 3.0' in said
    for process, pipe in engines:
        pipe.send("end")
        process.join()
    assert len(list(page.folder(os.getpid()).iterdir())) == 3, "one has ended without a word"
    assert "agentcache" not in shown()


def test_where_vllm_has_several_api_servers_their_own_page_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = tmp_path / "common"
    common.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(common))
    told = made(filled())
    told.write()
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(common))
    said = generate_latest(registry).decode()
    assert 'place="prefix",tier="gpu"} 48.0' in said
    assert f'{HOLDS}_count{{end="bound",engine="0",model_name="tiny"}} 3.0' in said
    told.close()
    assert not list(common.iterdir())


@pytest.mark.parametrize("place", ["/proc/agentcache-none", "/dev/null"])
def test_a_place_that_cannot_be_written_ends_nothing(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", place)
    told = made(filled())
    with pytest.raises(OSError):
        told.write()
    told.start()
    told.close()
    assert shown().strip() == ""


def test_a_full_disk_ends_nothing_and_what_was_told_stays() -> None:
    """Under a limit on the size of files, which a memory map would not survive on a full disk."""
    program = """
import resource, tempfile, sys
tempfile.tempdir = sys.argv[1]
from tests.vllm_plugin.accounts import test_page
told = test_page.made(meter := test_page.filled())
told.write()
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
meter.count("agentcache_reused_tokens_total", "gpu", "prefix", by=1)
try:
    told.write()
except OSError as error:
    print("refused", error.errno)
print(test_page.shown().count('tier="gpu"} 48.0'))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tempfile.gettempdir()], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["refused", "27", "1"], done.stderr


def test_a_folder_of_somebody_else_is_neither_written_nor_read(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = page.folder(os.getpid()).parent
    (elsewhere / "other").mkdir()
    theirs.symlink_to(elsewhere / "other")
    with pytest.raises(OSError, match="belongs to somebody else"):
        made(filled()).write()


def test_what_killed_processes_left_goes_when_an_engine_starts() -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    dead, alive = page.folder(done.pid), page.folder(os.getpid())
    for place in (dead, alive):
        place.mkdir(parents=True)
    page._sweep()
    assert (dead.exists(), alive.exists()) == (False, True)


def test_a_damaged_file_leaves_the_page_to_vllm() -> None:
    made(filled()).write()
    (damaged,) = page.folder(os.getpid()).glob("counter_*.db")
    damaged.write_bytes(b"no such thing")
    assert shown().strip() == ""
