"""Stand-ins for packages that another vLLM needs and this environment has not: they are not what is looked at."""

import importlib
import importlib.abc
import importlib.machinery
import sys
from typing import Any
from unittest.mock import MagicMock


class _Foreign(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self) -> None:
        self.absent: set[str] = set()

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        wanted = name.partition(".")[0] in self.absent
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if wanted else None

    def create_module(self, spec: Any) -> Any:
        return None

    def exec_module(self, module: Any) -> None:
        module.__getattr__ = lambda name: MagicMock(name=name)


FOREIGN = _Foreign()


def imported(name: str) -> Any:
    """The module, with stand-ins for what it misses. Raises `ModuleNotFoundError` for what vLLM itself has not."""
    if FOREIGN not in sys.meta_path:
        sys.meta_path.append(FOREIGN)
    while True:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            absent = str(error.name).partition(".")[0]
            if absent in ("vllm", "agentcache", *FOREIGN.absent):
                raise
            FOREIGN.absent.add(absent)
