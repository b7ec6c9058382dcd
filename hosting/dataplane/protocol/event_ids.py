"""Event ids as legacy clients see them: one charset whatever a server wrote, and readable on any node without a look-up.

    u1.<server's id>[.<request>]        a server's own id: only that server can resume there
    r1.<stream>.<sequence>.<requests>   a place in the gateway's own log of a stream (forwarding/journal.py)

All parts are base64url, hex or digits. `request` and `requests` are the JSON-RPC ids whose answers the stream owes, so that whoever is
asked to resume a stream that is lost can answer with an error for just those.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from hosting.dataplane.contract import b64url, unb64url
from hosting.dataplane.protocol.errors import BAD_HEADER, JsonRpcId, Refusal

MAX_EVENT_ID = 512
_SERVERS = "u1."
_LOGGED = "r1."
_UNNAMED = "-"  # what stands for requests whose ids are too long
_PLACE = re.compile(r"r1\.([0-9a-f]{16})\.([0-9]{1,15})\.([A-Za-z0-9_-]*)\Z")


@dataclass(frozen=True, slots=True)
class ServersEvent:
    """The place of an event that a server can find by its own id."""

    raw: str
    request_id: JsonRpcId = None  # None: no single one, or its id was too long


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """The place of an event in the gateway's log of a stream."""

    stream: str  # 16 hex digits
    sequence: int
    requests: (
        tuple[JsonRpcId, ...] | None
    ) = ()  # (): a stream that owes no answer; None: their ids were too long


def wrap_event_id(raw: bytes, request_id: JsonRpcId) -> bytes | None:
    """A server's event id for the client. A request's id that is very long is left out. None when the event's is too long to carry."""
    bare = f"{_SERVERS}{b64url(raw)}"
    named = bare if request_id is None else f"{bare}.{b64url(msgspec.json.encode(request_id))}"
    wrapped = named if len(named) <= MAX_EVENT_ID else bare
    return wrapped.encode() if raw and len(wrapped) <= MAX_EVENT_ID else None


class Numbering:
    """The ids of one logged stream."""

    __slots__ = ("_after", "_before")

    def __init__(self, stream: str, requests: Sequence[JsonRpcId]) -> None:
        named = b64url(msgspec.json.encode(list(requests))) if requests else ""
        self._before = f"{_LOGGED}{stream}."
        self._after = f".{named if len(named) <= MAX_EVENT_ID - 64 else _UNNAMED}"

    def at(self, sequence: int) -> bytes:
        return f"{self._before}{sequence}{self._after}".encode()


def parse_event_id(text: str) -> ServersEvent | LoggedEvent:
    """What a client sent as Last-Event-ID. Raises Refusal (400) for an id that is not ours."""
    try:
        if len(text) > MAX_EVENT_ID:
            raise ValueError("too long")
        return _servers(text) if text.startswith(_SERVERS) else _logged(text)
    except (ValueError, msgspec.MsgspecError):
        raise Refusal(BAD_HEADER, "Last-Event-ID is no id of this gateway") from None


def _servers(text: str) -> ServersEvent:
    encoded, _, named = text.removeprefix(_SERVERS).partition(".")
    raw = unb64url(encoded).decode("latin-1")
    if not raw.isprintable():
        raise ValueError("no header could carry it")
    return ServersEvent(raw, msgspec.json.decode(unb64url(named), type=str | int) if named else None)


def _logged(text: str) -> LoggedEvent:
    found = _PLACE.match(text)
    if found is None:
        raise ValueError("of no form we give out")
    stream, sequence, named = found.groups()
    if named == _UNNAMED:
        return LoggedEvent(stream, int(sequence), None)
    requests = msgspec.json.decode(unb64url(named), type=list[str | int]) if named else []
    return LoggedEvent(stream, int(sequence), tuple(requests))
