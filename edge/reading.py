"""JSON on its way in, in pieces: a large body is taken apart in a thread, and never much of it in one call.

A call into C keeps the interpreter to itself until it returns, whichever thread makes it, and the garbage collector stops everybody to look
at each list and object there is. So what is long is cut where that changes nothing, and what has too many lists and objects is refused.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Any

import msgspec

AT_ONCE = 64 * 1024
MAX_CONTAINERS = 250_000
MAX_DEPTH = 100

SPACE = re.compile(rb"[ \t\r\n]++")
SCALAR = re.compile(rb"[-+.0-9A-Za-z]{1,400}+")
# What may stand between quotes, up to a place where it can be cut: not inside an escape, nor between the two of a pair.
TEXT = re.compile(
    rb"""(?: [^"\\\x00-\x1f]++ | \\["\\/bfnrt] | \\u(?![dD][89abAB])[0-9a-fA-F]{4}
           | \\u[dD][89abAB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4} )*+""",
    re.VERBOSE,
)
STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
FLAT = rb"[ \t\r\n]*+(?:[-+.0-9A-Za-z]++|" + STRING + rb")[ \t\r\n]*+"
FLAT_ITEMS = re.compile(rb"(?:" + FLAT + rb",)++", re.DOTALL)
FLAT_OBJECT = re.compile(
    rb"\{[ \t\r\n]*+" + STRING + rb"[ \t\r\n]*+:" + FLAT
    + rb"(?:,[ \t\r\n]*+" + STRING + rb"[ \t\r\n]*+:" + FLAT + rb")*+\}",
    re.DOTALL,
)  # fmt: skip


class NotJson(ValueError):
    """The text is not JSON, or has more lists and objects than anybody needs."""


async def decoded(body: bytes | bytearray) -> Any:
    """What the JSON says; a large one is read in a thread. Raises NotJson."""
    if len(body) > AT_ONCE:
        return await asyncio.to_thread(partial(decode, body))
    return _decode(body)


def decode(body: bytes | bytearray) -> Any:
    """The same, here. Raises NotJson."""
    reader = _Reader(body)
    value = reader.value(0)
    reader.skip()
    if reader.at != len(body):
        raise NotJson("something follows the end")
    return value


class _Reader:
    def __init__(self, body: bytes | bytearray) -> None:
        self.at = 0
        self._body = body
        self._containers = 0

    def skip(self) -> bytes:
        """Go to what follows the space; its first byte."""
        while (space := SPACE.match(self._body, self.at, self.at + AT_ONCE)) is not None:
            self.at = space.end()
        return bytes(self._body[self.at : self.at + 1])

    def value(self, depth: int) -> Any:
        match self.skip():
            case b'"':
                return self._text()
            case b"[":
                return self._container(depth, self._list)
            case b"{":
                return self._container(depth, self._object)
        return _decode(self._take(SCALAR))

    def _container(self, depth: int, read: Any) -> Any:
        self._containers += 1
        if depth >= MAX_DEPTH or self._containers > MAX_CONTAINERS:
            raise NotJson("too many lists and objects")
        return read(depth + 1)

    def _list(self, depth: int) -> list[Any]:
        items: list[Any] = []
        self.at += 1
        if self.skip() == b"]":
            self.at += 1
            return items
        while True:
            flat = FLAT_ITEMS.match(self._body, self.at, self.at + AT_ONCE)
            if flat is not None:
                items += _decode(b"[" + flat[0][:-1] + b"]")
                self.at = flat.end()
            items.append(self.value(depth))
            if self._next(b"]"):
                return items

    def _object(self, depth: int) -> dict[str, Any]:
        flat = FLAT_OBJECT.match(self._body, self.at, self.at + AT_ONCE)
        if flat is not None:
            self.at = flat.end()
            found: dict[str, Any] = _decode(flat[0])
            return found
        members: dict[str, Any] = {}
        self.at += 1
        if self.skip() == b"}":
            self.at += 1
            return members
        while True:
            if self.skip() != b'"':
                raise NotJson("a name is missing")
            name = self._text()
            if self.skip() != b":":
                raise NotJson("a colon is missing")
            self.at += 1
            members[name] = self.value(depth)
            if self._next(b"}"):
                return members

    def _next(self, end: bytes) -> bool:
        """Whether the container ends here; if not, go behind the comma."""
        found = self.skip()
        if found not in (end, b","):
            raise NotJson("a comma is missing")
        self.at += 1
        return found == end

    def _text(self) -> str:
        self.at += 1
        parts: list[str] = []
        while self._body[self.at : self.at + 1] != b'"':
            parts.append(_decode(b'"' + self._take(TEXT) + b'"'))
        self.at += 1
        return parts[0] if len(parts) == 1 else "".join(parts)

    def _take(self, pattern: re.Pattern[bytes]) -> bytes:
        last = self.at + AT_ONCE
        found = pattern.match(self._body, self.at, last)
        end = self.at if found is None else found.end()
        if end == last:
            while end > self.at and end < len(self._body) and self._body[end] & 0xC0 == 0x80:
                end -= 1  # inside a character
        if end == self.at:
            raise NotJson("something else was expected")
        piece = bytes(self._body[self.at : end])
        self.at = end
        return piece


def _decode(text: bytes | bytearray) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise NotJson("not valid JSON") from exc
