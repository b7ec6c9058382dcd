"""A request on its way: what was decided about it, from its first header to its last byte.

A Call is the request as the gateway let it in; a Plan is what an era's rules make of it for the server behind.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from hosting.dataplane.contract import Era, Route, Target
from hosting.dataplane.door.auth import Caller
from hosting.dataplane.door.exchange import Exchange
from hosting.dataplane.door.held import Share
from hosting.dataplane.door.places import Place
from hosting.dataplane.protocol.errors import Headers, JsonRpcId
from hosting.dataplane.protocol.event_ids import LoggedEvent
from hosting.dataplane.protocol.jsonrpc import Message
from hosting.dataplane.sessions.session import Session

HOPS_HEADER = "smcp-hops"
MAX_HOPS = 3  # a gateway in front of another's is no loop
JSON: Headers = (
    ("content-type", "application/json"),
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
)
PROBLEM: Headers = (("content-type", "application/problem+json"), *JSON[1:])
EVENTS: Headers = (
    ("content-type", "text/event-stream"),
    ("cache-control", "no-store, no-transform"),
    ("x-accel-buffering", "no"),
    ("x-content-type-options", "nosniff"),
)
EMPTY: Headers = (("cache-control", "no-store"),)


Outcome = Literal["ok", "failed", "nothing"]  # of a server; `nothing` says nothing of it


class Passage(Protocol):
    """A request's way through the breaker of its server, which wants to hear how it went."""

    def settle(self, outcome: Outcome) -> None: ...


class Errand(Protocol):
    """As much of a Call as it takes to ask a server something; what the gateway asks by itself has it too."""

    @property
    def route(self) -> Route: ...

    @property
    def caller(self) -> Caller: ...

    @property
    def request_id(self) -> str: ...

    @property
    def hops(self) -> int:
        """Through how many gateways it has come."""

    @property
    def share(self) -> Share: ...

    @property
    def era(self) -> Era: ...

    @property
    def is_probe(self) -> bool: ...

    @property
    def until(self) -> float:
        """When its time is up (monotonic)."""

    passage: Passage | None

    def within_budget(self, wait_s: float) -> float: ...


@dataclass(slots=True)
class Call:
    """One request that found its Route and was let in."""

    exchange: Exchange
    headers: dict[str, str]
    route: Route
    caller: Caller
    extra: Headers  # on every answer: request id, CORS
    request_id: str
    now: float  # seconds since the epoch
    share: Share  # what it may hold of memory
    place: Place  # among what is in flight
    era: Era = "legacy"
    until: float = math.inf  # when its time is up (monotonic); streams that have begun are not bound by it
    passage: Passage | None = None  # of what was sent last

    @property
    def is_probe(self) -> bool:
        return self.caller.kind == "probe"

    @property
    def hops(self) -> int:
        said = self.headers.get(HOPS_HEADER, "0")
        return int(said) if said.isascii() and said.isdigit() and len(said) < 4 else MAX_HOPS

    def within_budget(self, wait_s: float) -> float:
        """Seconds: `wait_s`, or less when less is left; never quite 0. A client that is being answered with a stream has no budget."""
        if self.exchange.status:
            self.until = math.inf
        return max(0.001, min(wait_s, self.until - time.monotonic()))


@dataclass(slots=True)
class Plan:
    """What to send where, and what counts as an answer.

    `ids` are the JSON-RPC ids that must be answered; none of them means the message is only to be accepted (202), except
    for a listening GET. `open_session` turns the result of `initialize` and the server's session id into headers.
    """

    target: Target
    method: Literal["GET", "POST"]
    headers: dict[str, str]
    body: bytes | None  # None once it was sent
    messages: list[Message] = field(default_factory=list)
    session: Session | None = None
    is_listening: bool = False  # a stream for whatever comes: silence is normal, nothing is owed
    is_stranded: bool = False  # its server's session is gone with its Release: to be renewed first
    resumes: JsonRpcId = (
        None  # the request whose stream a GET takes up again at the server, if an event id named one
    )
    after: LoggedEvent | None = None  # the place in the gateway's own log after which a GET goes on
    passes_event_ids: bool = False
    passes_empty_events: bool = False
    open_session: Callable[[bytes, str], Headers] | None = None
    leg: Era = "legacy"  # which era this session speaks upstream; not looked at where there is no session
    sent_bytes: int = 0

    @property
    def ids(self) -> list[JsonRpcId]:
        return [message.id for message in self.messages if message.kind == "request"]

    @property
    def stream_of(self) -> JsonRpcId:
        """The one request whose answer the stream brings; None where there are more, or none."""
        ids = self.ids
        return ids[0] if len(ids) == 1 else self.resumes

    @property
    def first_id(self) -> JsonRpcId:
        return next(iter(self.ids), None)
