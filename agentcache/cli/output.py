"""Files that commands write: complete or not at all."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from agentcache.errors import ConfigError


def check_json_path(path: Path | None) -> None:
    """Fail before the work rather than after it: raises `ConfigError` if the file could not be written."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise ConfigError(f"--json {path} cannot be written; nothing was started", hint="its folder must exist")


def write_json(path: Path, value: Any) -> None:
    """Write JSON beside the path, then rename."""
    handle, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=1) + "\n")
    os.chmod(name, 0o644)
    os.replace(name, path)
