"""A cost profile: the coefficients of one model on one device, as measured or estimated, and their JSON file."""

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from agentcache.errors import ConfigError
from agentcache.files import write_whole

SCHEMA = "agentcache-cost/1"
COEFFICIENTS = ("c0", "c_seg", "c_lin", "c_load", "c_att", "c_dec", "c_kv", "floor")
_CARRIED = Path(__file__).parent / "profiles"


@dataclass(frozen=True, slots=True)
class CostProfile:
    """Coefficients of a step's time, in seconds; all finite and none negative, else `ConfigError`.

    A step with Q prefill tokens in n segments [p, e), C resident tokens newly linked, and decodes over K context
    tokens takes

        c0 + c_seg (n - 1) + max(floor, c_lin Q + c_dec decodes) + c_load C + c_att sum(e^2 - p^2) + c_kv K

    c0 s: a step's fixed part; c_seg s: one more segment; c_lin s/token: projections, MLP, norms; c_load s/token:
    touching a resident token; c_att s/token^2: causal attention; c_dec s: one decode row; c_kv s/token: its reads;
    floor s: reading the weights, which few tokens do not make shorter. Blocks come up from host memory at
    `copy_bytes_per_s`, where that was measured.
    The other fields say what was measured, on what, and how well the fit held on points left out of it.
    """

    c_lin: float
    c_att: float
    c0: float = 0.0
    c_seg: float = 0.0
    c_load: float = 0.0
    c_dec: float = 0.0
    c_kv: float = 0.0
    floor: float = 0.0
    model: str = ""
    device: str = ""
    tp: int = 1
    kv_dtype: str = ""
    backend: str = ""
    block_size: int | None = None
    chunk_tokens: int | None = None
    max_len: int | None = None
    r2: float | None = None
    med_rel_err: float | None = None
    p95_rel_err: float | None = None
    n_points: int = 0
    copy_bytes_per_s: float | None = None

    def __post_init__(self) -> None:
        for name in COEFFICIENTS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigError(f"cost coefficient {name} is {value!r}, expected a number; the profile is not used")
            if not math.isfinite(value) or value < 0:
                raise ConfigError(
                    f"cost coefficient {name} is {value}, expected a finite number >= 0; the profile is not used",
                    hint="such a coefficient means that the measured grid was too narrow: measure again",
                )
        speed = self.copy_bytes_per_s
        if speed is not None and not (isinstance(speed, (int, float)) and math.isfinite(speed) and speed > 0):
            raise ConfigError(f"copy_bytes_per_s is {speed!r}, expected a number above 0; the profile is not used")
        if self.c_lin == 0 and self.c_att == 0:
            raise ConfigError(
                "c_lin and c_att are both 0, expected at least one above: every rebuild would be free; "
                "the profile is not used"
            )

    @classmethod
    def named(cls, name: str | Path) -> "CostProfile":
        """A profile that comes along, by name (`h20-like`, `h200-like`), or a file as `load` reads it."""
        carried = _CARRIED / f"{name}.json"
        return cls.load(carried if carried.is_file() else name)

    @classmethod
    def load(cls, path: str | Path) -> "CostProfile":
        """Read a profile's JSON. Raises `ConfigError` for anything but `agentcache-cost/1` with known fields."""
        hint = "leave the profile out to estimate from the model's shape"
        try:
            data: Any = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"cost profile {path} cannot be read: {error}", hint) from error
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise ConfigError(f"cost profile {path} has schema {found!r}, expected {SCHEMA!r}; it is not used", hint)
        del data["schema"]
        known = [field.name for field in fields(cls)]
        if unknown := sorted(data.keys() - set(known)):
            raise ConfigError(
                f"cost profile {path} has unknown fields {', '.join(unknown)}; it is not used",
                hint="known fields: " + ", ".join(known),
            )
        if missing := [name for name in ("c_lin", "c_att") if name not in data]:
            raise ConfigError(f"cost profile {path} lacks {', '.join(missing)}; it is not used", hint)
        return cls(**data)

    def check_for(self, model: str, block_size: int) -> None:
        """Raise `ConfigError` if this was measured on another model or with another block size."""
        for what, mine, theirs in (("model", self.model, model), ("block size", self.block_size, block_size)):
            if self.n_points and mine not in ("", None, theirs):
                raise ConfigError(
                    f"the cost profile was measured with {what} {mine}, the engine runs {theirs}: its seconds are not "
                    "this engine's; the profile is not used",
                    hint="measure this engine with `agentcache profile`, or leave the profile out",
                )

    def save(self, path: str | Path) -> None:
        """Write the profile as JSON, whole or not at all. Raises `ConfigError`."""
        write_whole(path, json.dumps({"schema": SCHEMA, **asdict(self)}, indent=2) + "\n")
