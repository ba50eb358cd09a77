"""Texts: token sequences that go on by themselves, each token a pure function of those before it."""

from zlib import crc32

VOCABULARY = 499


def follow(prefix: int, token: int) -> int:
    """The prefix that a token makes of the one before it."""
    return hash((prefix, token))


class Text:
    """A prompt and what any right engine answers to it. `salt` is of its tenant: equal tokens, other K/V."""

    def __init__(self, prompt: list[int], salt: str | None = None) -> None:
        self.prompt_tokens = len(prompt)
        self.salt = salt
        self._tokens: list[int] = []
        self._prefixes: list[int] = []
        self._last = crc32(salt.encode()) if salt else 1
        for token in prompt:
            self._append(token)

    def _append(self, token: int) -> None:
        self._last = follow(self._last, token)
        self._tokens.append(token)
        self._prefixes.append(self._last)

    def _grow(self, length: int) -> None:
        while len(self._tokens) < length:
            self._append(3 + self._last % VOCABULARY)

    def tokens(self, start: int, end: int) -> list[int]:
        """Tokens [start, end), prompt or answer."""
        self._grow(end)
        return self._tokens[start:end]

    def prefixes(self, start: int, end: int) -> list[int]:
        """What the K/V of positions [start, end) are of: one number for each prefix that ends there."""
        self._grow(end)
        return self._prefixes[start:end]
