"""Tenants: bearer tokens, and how many requests a second each may send. Only digests of tokens are kept."""

import hashlib
import hmac
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from agentcache.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Tenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tenant: `tokens_sha256` are hex digests of its bearer tokens, `requests_per_s` bounds its calls,
    `control_per_s` its control calls.
    """

    name: str
    tokens_sha256: tuple[str, ...]
    requests_per_s: float | None = None
    control_per_s: float | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    tenants: list[Tenant]


class Tenants:
    """Maps bearer tokens to tenants; without any tenant everybody is the one tenant None."""

    def __init__(self, tenants: list[Tenant]) -> None:
        self._tenants = tenants

    @classmethod
    def load(cls, path: str | None) -> "Tenants":
        """Read a tenants file (JSON); None: no tokens are asked for. Raises `ConfigError`, never naming a token."""
        if path is None:
            return cls([])
        hint = '{"tenants": [{"name": "team-a", "tokens_sha256": ["<sha256 of the token, hex>"]}]}'
        try:
            tenants = msgspec.json.decode(Path(path).read_bytes(), type=_File).tenants
        except (OSError, ValueError) as error:
            raise ConfigError(f"tenants file {path} cannot be used: {error}; nothing was started", hint) from error
        if not tenants:
            raise ConfigError(f"tenants file {path} names no tenant, so nobody could call; nothing was started", hint)
        for tenant in tenants:
            if not NAME.fullmatch(tenant.name):
                raise ConfigError(f"tenant {tenant.name!r}: a name has 1 to 64 letters, digits, - or _", hint)
            if any(not re.fullmatch(r"[0-9a-f]{64}", digest) for digest in tenant.tokens_sha256):
                raise ConfigError(f"tenant {tenant.name}: a digest is not 64 hex digits; nothing was started", hint)
        return cls(tenants)

    def __bool__(self) -> bool:
        return bool(self._tenants)

    def find(self, headers: Mapping[str, str]) -> Tenant | None:
        """The tenant whose token the request bears (`Authorization: Bearer ...`, or `X-API-Key` as Anthropic's)."""
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            token = headers.get("x-api-key", "")
        digest = hashlib.sha256(token.strip().encode()).hexdigest()
        found = None
        for tenant in self._tenants:  # all are compared: time tells nothing
            for known in tenant.tokens_sha256:
                if hmac.compare_digest(digest, known):
                    found = tenant
        return found


class Rate:
    """A token bucket for each caller: `per_s` calls a second, `burst` at once. `per_s` None: no limit."""

    def __init__(self, per_s: float | None, burst: int, clock: Callable[[], float]) -> None:
        self.per_s, self.burst, self._clock = per_s, burst, clock
        self._level: dict[Any, tuple[float, float]] = {}  # caller -> (tokens left, when)

    def wait_s(self, caller: Any, per_s: float | None = None) -> float:
        """0 and one token taken, or the seconds until there is one.

        `per_s` stands in for the common rate; its burst is what comes in two seconds.
        """
        rate = per_s or self.per_s
        if rate is None:
            return 0.0
        burst = max(1.0, 2 * per_s) if per_s else float(self.burst)
        now = self._clock()
        left, then = self._level.get(caller, (burst, now))
        left = min(burst, left + max(0.0, now - then) * rate)
        if left < 1:
            self._level[caller] = (left, now)
            return (1 - left) / rate
        self._level[caller] = (left - 1, now)
        return 0.0


def retry_after(seconds: float) -> str:
    """The value of the header, in whole seconds, at least one."""
    return str(max(1, math.ceil(seconds)))
