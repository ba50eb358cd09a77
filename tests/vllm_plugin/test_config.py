"""Options of the plug-in: defaults, and a clear sentence for everything that is not one."""

from pathlib import Path

import pytest

from agentcache.errors import ConfigError
from agentcache.vllm_plugin.config import EngineOptions, check_options, load_options


def test_nothing_given_means_the_defaults() -> None:
    assert load_options(None) == load_options({}) == load_options({"other": 1}) == EngineOptions()


def test_given_options_are_read() -> None:
    options = load_options({"agentcache": {"policy": "lru-holes", "mode": "sequential", "max_contexts": 7}})
    assert (options.policy, options.mode, options.max_contexts) == ("lru-holes", "sequential", 7)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"polcy": "lru"}, "unknown keys polcy"),
        ({"mode": "quick"}, "quick"),
        ({"max_contexts": "many"}, "max_contexts"),
        ({"max_contexts": 0}, "expected at least 1"),
        ({"engine": "a/b"}, "without a slash"),
        ({"max_segments": 0}, "max_segments is 0, expected at least 1"),
        ([], "expected an object"),
    ],
)
def test_a_bad_option_stops_with_the_known_keys(given: object, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_options({"agentcache": given})
    assert says in error.value.message
    assert "policy, mode, admission, profile" in str(error.value.hint)


def test_receipts_that_cannot_be_written_are_refused_before_an_engine_is_started(tmp_path: Path) -> None:
    check_options(EngineOptions(receipts=str(tmp_path / "receipts.jsonl")))
    with pytest.raises(ConfigError, match="receipts cannot be written to"):
        check_options(EngineOptions(receipts=str(tmp_path)))
