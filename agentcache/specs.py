"""The one grammar by which things are named in text: `NAME`, `NAME:option=value,option=value`, `LAYER+NAME`.

A spec keeps its text, so that every error shows what was written, and says what follows from it.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from agentcache.errors import ConfigError

EXAMPLE = "asymcache:lifespan_s=30,p=0.5"


@dataclass(frozen=True, slots=True)
class Spec:
    """One name with its options, not yet read. `kind` says in errors what is named, `consequence` what follows."""

    kind: str
    text: str
    consequence: str = "nothing was started"

    @property
    def name(self) -> str:
        return self.text.partition(":")[0].strip()

    @property
    def value(self) -> str:
        """All behind the colon, for a name that takes one value rather than options."""
        return self.text.partition(":")[2].strip()

    def options(self, known: Collection[str], first: str = "", parts: Sequence[str] = ()) -> dict[str, str]:
        """The options by name, as text.

        A known `floor.TENANT` takes any name behind its dot. `first` is the option that a first part without a name
        gives (`fixed:512`); `parts` replace those behind the colon. Raises `ConfigError` for an option that is not
        known (listing those that are), one without a value, and one given twice.
        """
        found: dict[str, str] = {}
        listed = ", ".join(known) or "none"
        for number, part in enumerate(parts or filter(None, self.value.split(","))):
            key, equals, text = (side.strip() for side in part.partition("="))
            if first and not equals and not number:
                key, text = first, key
            if not _takes(known, key):
                raise self.error(f"{self.kind} {self.name!r} has no option {key!r}", f"its options: {listed}")
            if not text:
                raise self.error(
                    f"{self.kind} {self.text!r} has {part!r} where option=value was expected",
                    f"its options: {listed}; written as in {EXAMPLE}",
                )
            if key in found:
                raise self.error(f"{self.kind} {self.text!r} gives {key} twice")
            found[key] = text
        return found

    def number(self, key: str, text: str, least: float = -math.inf) -> float:
        """The number that an option's text is; raises `ConfigError` unless it is finite and at least `least`."""
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf or not math.isfinite(value):
            raise self.unexpected(key, text, "a finite number" + (f" >= {least:g}" if math.isfinite(least) else ""))
        return value

    def numbers(self, *keys: str, least: float = -math.inf) -> list[float]:
        """The numbers behind the colon, as many as they have names; raises `ConfigError`."""
        parts = self.value.split(",") if self.value else []
        if len(parts) != len(keys):
            raise self.error(f"{self.kind} {self.text!r}: expected {self.name}:{','.join(keys)}")
        return [self.number(key, part, least) for key, part in zip(keys, parts, strict=True)]

    def either(self, key: str, text: str, yes: str = "true", no: str = "false") -> bool:
        """Whether an option's text is `yes`; raises `ConfigError` for anything but the two."""
        if text not in (yes, no):
            raise self.unexpected(key, text, f"{yes} or {no}")
        return text == yes

    def unexpected(self, key: str, text: str, expected: str) -> ConfigError:
        return self.error(f"{self.kind} {self.text!r}: {key} is {text!r}, expected {expected}")

    def error(self, said: str, hint: str | None = None) -> ConfigError:
        return ConfigError(f"{said}; {self.consequence}", hint=hint)


def split_layers(text: str) -> list[str]:
    """The specs of the layers of a policy, outermost first, and last the one of the policy behind them all."""
    return text.split("+")


def _takes(known: Collection[str], key: str) -> bool:
    """Whether an option is known: by its name, or its group where any member goes."""
    group, dot, member = key.partition(".")
    if dot:
        return bool(member) and any(name.startswith(f"{group}.") for name in known)
    return key in known
