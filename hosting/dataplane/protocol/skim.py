"""Reads of a large JSON body what the gateway must know, and builds nothing of the rest.

Python's own decoder makes an object of every `[]` and holds the interpreter while it does: fifteen megabytes of them kept the
whole process from answering for three seconds, in a thread or not. Here the body goes through in two ways. `_survey` walks over it in
small pieces, between which others get their turn: UTF-8, depth, how many values there are, how many names the top three levels
hold. Then msgspec judges the grammar, skipping what nobody asks for, and gives the names of the top three levels once each; where
there are fewer than were counted, one stands twice. How long that takes at a stretch is bounded by MAX_VALUES.

The outcome is what `json` would give to `jsonrpc.py`, with values that it does not look at left empty.
"""

from __future__ import annotations

import codecs
import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import msgspec

from hosting.dataplane.protocol.errors import INVALID_REQUEST, PARSE_ERROR, Refusal

MAX_VALUES = 2 * 1024 * 1024  # marks of structure: an array of bytes that fills four megabytes has as many
MAX_NAMES = 10_000  # in the top three levels of a message, and items of an array that stands there
MAX_WHOLE_BYTES = 64 * 1024  # of an object that is read to its end
MAX_SCALAR_BYTES = 8 * 1024  # longer ones are read only where they are asked for
MAX_DIGITS = 4300  # Python's own bound: nobody behind us needs to be tried with more
LEVELS = 3

_PIECE = 32 * 1024
_PAUSE_S = 0.00005  # a real pause: of no time at all, one mostly gets the interpreter back oneself
_NOT_MARKS = bytes(byte for byte in range(256) if byte not in b"[]{},:")
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # one level in, one level out, as signed bytes
_COMMA, _COLON, _OPENERS = b","[0], b":"[0], b"[{"
_DIGITS = b"0123456789"
_ONLY_DIGITS = bytes(byte if byte in _DIGITS else 0x20 for byte in range(256))
_DIGITS_STEP = MAX_DIGITS // 2  # more digits than MAX_DIGITS fill one such stretch, wherever they begin
_LEADING = re.compile(rb"[ \t\n\r]*")
_WHOLE = frozenset({"capabilities", "clientInfo"})
_ASKED_FOR = frozenset({"jsonrpc", "id", "method", "name", "uri", "taskId", "level"})
_UNREAD = object()
_HALF = "\ud800"  # stands for text of which we do not know whether it can be said again

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_array = msgspec.json.Decoder(list[msgspec.Raw])
_anything = msgspec.json.Decoder(msgspec.Raw)

_Halves = Literal["none", "replaced", "unclear"]


class Repeated(dict[str, Any]):
    """An object in which a key stood twice, or in which such an object stands."""


@dataclass(slots=True)
class _Survey:
    """`names` of the top three levels, message by message."""

    names: list[int]
    is_batch: bool


def skim(body: bytes, *, max_depth: int, max_batch: int, gives_way: bool = False) -> Any:
    """The body's value, as far as the gateway looks at it. `gives_way`: pauses, for other threads. Raises Refusal."""
    survey = _survey(body, max_depth, gives_way=gives_way)
    with suppress(msgspec.MsgspecError):
        return _read(body, survey, max_batch, halves="none")
    # Half a surrogate pair is JSON, and clients that cut text send it; msgspec cannot skip it. So another reader's words for
    # those escapes, none of which can come out as ASCII: no name can turn into one that we know.
    whole = body.replace(b"\\ud", b"\\ue").replace(b"\\uD", b"\\ue")
    if whole == body:
        raise Refusal(PARSE_ERROR)
    try:
        return _read(whole, survey, max_batch, halves="unclear" if b"\\ue" in body else "replaced")
    except msgspec.MsgspecError:
        raise Refusal(PARSE_ERROR) from None


def _read(body: bytes, survey: _Survey, max_batch: int, *, halves: _Halves) -> Any:
    if not survey.is_batch:
        return _message(body, survey.names[0], halves=halves)
    items = _array.decode(body)
    if not 0 < len(items) <= max_batch:
        return items
    return [_message(item, names, halves=halves) for item, names in zip(items, survey.names, strict=True)]


def _message(text: bytes | msgspec.Raw, names: int, *, halves: _Halves) -> Any:
    reader = _Reader(halves=halves)
    value = reader.read(text, LEVELS)
    return Repeated(value) if isinstance(value, dict) and reader.names != names else value


class _Reader:
    """One message. `names` counts those it met in the top three levels."""

    def __init__(self, *, halves: _Halves) -> None:
        self.names = 0
        self._halves = halves

    def read(self, text: bytes | msgspec.Raw, levels: int, name: str = "") -> Any:
        """Raises msgspec.MsgspecError, Refusal."""
        view = memoryview(text)
        start = _LEADING.match(view)
        first = bytes(view[start.end() : start.end() + 1]) if start is not None else b""
        if first == b"{":
            return self._read_object(text, levels, name)
        if first == b"[":
            if not levels:
                return []
            items = _array.decode(text) if levels > 1 else []
            return [self.read(item, levels - 1) for item in items]
        if levels == LEVELS:
            _anything.decode(text)
            return None  # whatever it is, it is no message
        if len(view) > MAX_SCALAR_BYTES and name not in _ASKED_FOR:
            return _UNREAD
        scalar = bytes(view)
        if self._halves != "none" and b"\\ue" in scalar:
            return _HALF if self._halves == "unclear" else json.loads(scalar.replace(b"\\ue", b"\\ud"))
        return json.loads(scalar)

    def _read_object(self, text: bytes | msgspec.Raw, levels: int, name: str) -> dict[str, Any]:
        if not levels:
            return {}
        found = _object.decode(text)
        self.names += len(found)
        if levels == 1 and name in _WHOLE:
            if len(memoryview(text)) > MAX_WHOLE_BYTES:
                raise Refusal(INVALID_REQUEST, f"params.{name} is larger than {MAX_WHOLE_BYTES} bytes")
            return dict(json.loads(bytes(text)))
        return {key: self.read(value, levels - 1, key) for key, value in found.items()}


def _survey(body: bytes, max_depth: int, *, gives_way: bool) -> _Survey:
    """One walk over the marks of structure that stand outside of strings. Raises Refusal; of the grammar it says nothing."""
    start = _LEADING.match(body)
    is_batch = start is not None and body[start.end() : start.end() + 1] == b"["
    base = 1 if is_batch else 0
    named, listed = base + LEVELS, base + LEVELS - 1
    depth = marks = names = items = total = 0
    told: list[int] = []
    for outside in _outside_of_strings(body):
        structure = outside.translate(None, _NOT_MARKS)
        marks += len(structure)
        if marks > MAX_VALUES:
            raise Refusal(INVALID_REQUEST, f"the body holds more than {MAX_VALUES} values")
        steps = memoryview(structure.translate(_STEPS, b",:")).cast("b")
        depths = list(accumulate(steps, initial=depth))
        if max(depths) > max_depth:
            raise Refusal(PARSE_ERROR, f"the body is not JSON, or nests deeper than {max_depth}")
        if min(depths) <= named:
            for mark in structure:
                if mark == _COMMA:
                    items += depth <= listed
                    if is_batch and depth == 1:
                        told.append(names)
                        names = 0
                elif mark == _COLON:
                    if depth <= named:
                        names += 1
                        total += 1
                else:
                    depth += 1 if mark in _OPENERS else -1
            if total > MAX_NAMES or items > MAX_NAMES:
                raise Refusal(INVALID_REQUEST, f"a body holds more than {MAX_NAMES} names or items")
        depth = depths[-1]
        if gives_way:
            time.sleep(_PAUSE_S)
    return _Survey([*told, names], is_batch)


def _outside_of_strings(body: bytes) -> Iterator[bytes]:
    """Piece by piece what stands outside of strings. Raises Refusal for what is not UTF-8, and for numbers without end."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    is_inside, at, digits = False, 0, b""
    while at < len(body):
        piece = body[at : at + _PIECE]
        backslashes = len(piece) - len(piece.rstrip(b"\\"))
        if backslashes % 2 and at + len(piece) < len(body):
            piece = piece[:-1]  # an escape is not cut
        at += len(piece)
        try:
            decoder.decode(piece, final=at == len(body))
        except UnicodeDecodeError:
            raise Refusal(PARSE_ERROR) from None
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[is_inside::2])
        is_inside ^= len(parts) % 2 == 0
        digits = _check_digits(digits + outside)
        yield outside


def _check_digits(text: bytes) -> bytes:
    """The digits at its end, for what follows. Raises Refusal."""
    stretches = range(0, len(text) - _DIGITS_STEP + 1, _DIGITS_STEP)
    is_suspect = any(text[at : at + _DIGITS_STEP].isdigit() for at in stretches)
    if is_suspect and max(map(len, text.translate(_ONLY_DIGITS).split())) > MAX_DIGITS:
        raise Refusal(PARSE_ERROR, f"a number has more than {MAX_DIGITS} digits")
    tail = text[-MAX_DIGITS:]
    return tail[len(tail.rstrip(_DIGITS)) :]
