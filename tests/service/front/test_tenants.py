"""Tenants files, tokens and rates."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcache.errors import ConfigError
from agentcache.service.front.tenants import Rate, Tenants, retry_after

DIGEST = hashlib.sha256(b"token").hexdigest()


def load(tmp_path: Path, content: Any) -> Tenants:
    path = tmp_path / "tenants.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return Tenants.load(str(path))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be used"),
        ({"tenants": []}, "names no tenant"),
        ({"tenants": [{"name": "a b", "tokens_sha256": [DIGEST]}]}, "letters"),
        ({"tenants": [{"name": "a", "tokens_sha256": ["token"]}]}, "64 hex digits"),
        ({"tenants": [{"name": "a", "tokens": ["token"]}]}, "unknown field"),
    ],
)
def test_a_file_that_cannot_be_used_says_why_and_names_no_token(tmp_path: Path, content: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as raised:
        load(tmp_path, content)
    assert '"token"' not in raised.value.message


def test_no_file_is_one_tenant_for_all() -> None:
    assert not Tenants.load(None)
    with pytest.raises(ConfigError):
        Tenants.load("/nowhere/tenants.json")


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"authorization": "Bearer token"}, True),
        ({"authorization": "bearer  token "}, True),
        ({"x-api-key": "token"}, True),
        ({"authorization": "Basic token"}, False),
        ({"authorization": f"Bearer {DIGEST}"}, False),
        ({"authorization": "Bearer"}, False),
        ({}, False),
    ],
)
def test_a_token_is_its_tenants(tmp_path: Path, headers: dict[str, str], found: bool) -> None:
    tenants = load(tmp_path, {"tenants": [{"name": "a", "tokens_sha256": [DIGEST]}]})
    assert (tenants.find(headers) is not None) == found


@given(st.lists(st.floats(0, 3), max_size=60), st.floats(0.1, 10), st.integers(1, 5))
def test_a_rate_lets_no_more_through_than_it_says(gaps: list[float], per_s: float, burst: int) -> None:
    now = 0.0
    rate = Rate(per_s, burst, lambda: now)
    taken = 0
    for gap in gaps:
        now += gap
        wait_s = rate.wait_s("a")
        taken += wait_s == 0
        assert 0 <= wait_s <= 1 / per_s + 1e-9
        assert taken <= burst + now * per_s + 1e-6
    assert rate.wait_s("b") == 0


def test_a_tenants_own_rate_stands_in() -> None:
    rate = Rate(None, 1, lambda: 0.0)
    assert [rate.wait_s("a") for _ in range(9)] == [0] * 9
    assert [rate.wait_s("b", 1.0) for _ in range(3)] == [0, 0, 1]
    assert retry_after(0.1) == "1" and retry_after(1.2) == "2"
