"""What all tests share."""

import os
import signal
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings

# Engines run beside one another here, and several threads of each would spend their time waiting at barriers.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A run that was started in the background inherits SIGINT ignored, and its children would too: interrupts must arrive.
signal.signal(signal.SIGINT, signal.default_int_handler)
# What a drawn example takes depends on what else the machine does: no test is timed. The same examples are drawn in
# every run, so that a change is judged by itself; `pytest --hypothesis-profile explore` draws others, and more of them.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeatable", UNTIMED, derandomize=True)
settings.register_profile("explore", UNTIMED, max_examples=500)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start a cluster come first, then those with engines: the last ones to run are short."""
    marked = {mark: {item.path for item in items if item.get_closest_marker(mark)} for mark in ("ray", "vllm")}
    items.sort(key=lambda item: (item.path not in marked["ray"], item.path not in marked["vllm"]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The seconds of all workers, by room, tests on real engines apart from the others; and what CI did before."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                _, *folders = report.nodeid.partition("::")[0].split("/")
                room = folders[0] if len(folders) > 1 else "whole"
                seconds[f"{room} on engines" if "vllm" in report.keywords else room] += report.duration
    told = ", ".join(f"{room} {round(spent)} s" for room, spent in seconds.most_common())
    if before := os.environ.get("TOOK"):
        terminalreporter.write_line(f"time by part: {before}, and the tests")
    terminalreporter.write_line(f"time by room: {told}")
