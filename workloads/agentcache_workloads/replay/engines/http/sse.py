"""Server-sent events: whole `data` fields out of a stream that comes in pieces of any size."""


class Events:
    """Feed it bytes, it returns the data of the events that are complete. Comments, names and ids are passed over."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """Data of the events that end in this piece; several `data` lines of one event are joined by newlines."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        found = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                found.append(b"\n".join(self._data))
                self._data = []
        return found
