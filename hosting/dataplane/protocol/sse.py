"""Server-sent events, read from a server and written anew for a client.

Nothing of a server's framing reaches a client: events are parsed as the HTML standard (9.2.6) says and written again with our
own `event`, and with `id` and `retry` only where the caller says so. Bounded: an event larger than the limit ends the stream.
"""

from __future__ import annotations

from dataclasses import dataclass

KEEPALIVE = b": keep-alive\n\n"
_BOM = b"\xef\xbb\xbf"


class EventTooLarge(Exception):
    """An event passed the bound before its end came."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `data` keeps its line breaks as LF; `id` is None where the event set none; `retry_ms` likewise."""

    data: bytes
    name: bytes = b"message"
    id: bytes | None = None
    retry_ms: int | None = None


class EventParser:
    """Feed it bytes as they come; it gives whole events back."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []  # of a line that has not ended yet; joined once, however it drips in
        self._pieces_size = 0
        self._is_start = True
        self._skip_lf = False
        self._size = 0
        self._data: list[bytes] = []
        self._name = b""
        self._id: bytes | None = None
        self._retry_ms: int | None = None

    @property
    def held(self) -> int:
        """Bytes of an event whose end has not come."""
        return self._size + self._pieces_size

    def feed(self, chunk: bytes) -> list[Event]:
        """Raises EventTooLarge."""
        if self._is_start:
            chunk = b"".join((*self._pieces, chunk))
            self._pieces, self._pieces_size = [], 0
            if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
                self._hold(chunk)
                return []
            chunk = chunk.removeprefix(_BOM)
            self._is_start = False
        if self._skip_lf and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._skip_lf = False
        if b"\n" not in chunk and b"\r" not in chunk:
            self._hold(chunk)
            return []
        self._skip_lf = chunk.endswith(b"\r")  # its LF may be on the way; the line ends here either way
        text = b"".join((*self._pieces, chunk)).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = text.split(b"\n")
        self._pieces, self._pieces_size = [], 0
        last = lines.pop()
        events = []
        for line in lines:
            if line:
                self._size += len(line)
                self._field(line)
            elif (event := self._dispatch()) is not None:
                events.append(event)
        self._hold(last)
        return events

    def _hold(self, piece: bytes) -> None:
        if piece:
            self._pieces.append(piece)
            self._pieces_size += len(piece)
        if self._size + self._pieces_size > self._limit:
            raise EventTooLarge

    def _field(self, line: bytes) -> None:
        if self._size > self._limit:
            raise EventTooLarge
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._name = value
        elif name == b"id" and b"\0" not in value:
            self._id = value
        elif name == b"retry" and value.isdigit() and len(value) < 10:
            self._retry_ms = int(value)

    def _dispatch(self) -> Event | None:
        """An event with no data line sets no event off, but its `retry` is told (an Event without name)."""
        event = None
        if self._data:
            event = Event(b"\n".join(self._data), self._name or b"message", self._id, self._retry_ms)
        elif self._retry_ms is not None or self._id is not None:
            event = Event(b"", b"", self._id, self._retry_ms)
        self._data, self._name, self._id, self._retry_ms, self._size = [], b"", None, None, 0
        return event


def encode_named_event(name: bytes, data: bytes) -> bytes:
    """An event of one line that is no message."""
    return b"event: " + name + b"\ndata: " + data + b"\n\n"


def encode_event(data: bytes, *, event_id: bytes | None = None, retry_ms: int | None = None) -> bytes:
    """One `message` event; `data` may have several lines."""
    lines = [b"event: message"]
    if event_id is not None:
        lines.append(b"id: " + event_id)
    if retry_ms is not None:
        lines.append(b"retry: %d" % retry_ms)
    lines.extend(b"data: " + line for line in data.split(b"\n"))
    return b"\n".join(lines) + b"\n\n"
