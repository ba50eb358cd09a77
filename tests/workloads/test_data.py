"""The carried data is what its checksums and its licence say."""

from hashlib import sha256
from pathlib import Path

DATA = Path(__file__).parents[2] / "workloads" / "data"


def test_checksums_cover_every_trace_and_hold() -> None:
    listed = dict(reversed(line.split("  ", 1)) for line in (DATA / "SHA256SUMS").read_text().splitlines())
    assert set(listed) == {path.name for path in DATA.glob("*.jsonl*")}
    for name, digest in listed.items():
        assert sha256((DATA / name).read_bytes()).hexdigest() == digest


def test_every_trace_is_named_with_its_source_and_licence() -> None:
    text = (DATA / "README.md").read_text()
    assert all(path.name in text for path in DATA.glob("*.jsonl*"))
    assert "callanjfox/kv-cache-tester" in text
    assert "Apache License" in (DATA / "LICENSE.kv-cache-tester.txt").read_text()
