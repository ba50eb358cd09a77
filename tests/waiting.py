"""Waiting for a state, however long a busy machine takes; what never comes is ended by pytest's limit on a test."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(found: Callable[[], T]) -> T:
    """The first true value that is found."""
    while not (value := found()):
        time.sleep(0.01)
    return value
