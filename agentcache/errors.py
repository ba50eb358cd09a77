"""The one tree of errors that a user can meet.

    AgentCacheError
    ├── ConfigError        an option, a flag or a profile that cannot be used
    ├── InputError         a file or record that cannot be read as what it claims to be
    ├── Unsupported        a configuration in which exact reuse cannot be promised
    ├── EngineError        the engine under us failed
    └── CheckFailed        a structure recounted itself and the books do not balance (our bug)

A message gives the value, the expectation and the consequence; what to do about it stands in `hint`.
"""


class AgentCacheError(Exception):
    """Base of all errors; `str()` is one sentence and, where there is one, a line that starts with `hint:`."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class ConfigError(AgentCacheError):
    """An option, a flag or a profile that cannot be used."""


class InputError(AgentCacheError):
    """A file or record that cannot be read as what it claims to be."""


class Unsupported(AgentCacheError):
    """A configuration in which exact reuse cannot be promised, so it is refused."""


class EngineError(AgentCacheError):
    """The engine under us failed."""


class CheckFailed(AgentCacheError):
    """A structure recounted itself and found an equation that does not hold: our own bug."""
