"""Hints are claims: read where well-formed, nothing where not, scoped so that no job is claimed across salts."""

from types import SimpleNamespace
from typing import Any

import pytest

from agentcache.vllm_plugin.accounts.hints import Hints, read_hints


def request(extra: dict[str, Any] | None = None, session: Any = None, salt: str | None = None) -> Any:
    params = SimpleNamespace(extra_args=extra)
    return SimpleNamespace(sampling_params=params, session_id=session, cache_salt=salt)


def test_no_hints_is_nothing_said() -> None:
    assert read_hints(request()) == Hints()
    pooling = SimpleNamespace(sampling_params=None, session_id=None, cache_salt=None)
    assert read_hints(pooling) == Hints()


def test_continuum_fields_and_session() -> None:
    extra = {"job_id": "j", "last_func_call": "grep", "this_func_call": "ls", "is_last_step": 0}
    assert read_hints(request(extra, session="s")) == Hints("/j", "/s", "grep", "ls", False)


def test_a_session_alone_names_the_job() -> None:
    assert read_hints(request(session="s")).job == "/s"


def test_the_same_name_under_two_salts_is_two_jobs() -> None:
    a, b = (read_hints(request({"job_id": "j"}, salt=salt)).job for salt in ("x", "y"))
    assert a != b


@pytest.mark.parametrize("bad", [1, None, "", "x" * 257, "line\nbreak", ["j"], {"a": 1}])
def test_a_malformed_hint_counts_as_not_said(bad: Any) -> None:
    assert read_hints(request({"job_id": bad, "this_func_call": bad, "is_last_step": "maybe"})) == Hints()


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ("true", True),
        ("Yes", True),
        ("1", True),
        ("no", False),
        ("FALSE", False),
        (True, True),
        (1.0, True),
        ("2", None),
    ],
)
def test_the_last_step_may_be_a_word(given: Any, means: bool | None) -> None:
    hints = read_hints(request({"is_last_step": given}))
    assert hints.last is means
    assert hints.outcomes == {("vllm_xargs", "end", "rejected" if means is None else "accepted"): 1}
