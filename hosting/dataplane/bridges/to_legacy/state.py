"""The requestState a modern client carries from one round of its request to the next: sealed, and worth nothing to anybody else, for
anything else, or too late. It names the node that keeps the call, not the call's content."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hosting.dataplane.bridges.to_legacy.requests import Asked
from hosting.dataplane.call import Call
from hosting.dataplane.protocol.errors import INVALID_PARAMS, Refusal
from hosting.dataplane.sessions.seal import NotSealed, Seal

MAX_STATE = 4096


class Parked(msgspec.Struct, frozen=True, tag="parked"):
    """A call that waits on a node, behind a box there."""

    until: float  # seconds since the epoch
    node: str
    box: str


class Resend(msgspec.Struct, frozen=True, tag="resend"):
    """A call that was not carried out: something had to be done first."""

    until: float
    keys: list[str]  # of the inputRequests


class States:
    """Seals and opens for one ring. Does no I/O."""

    def __init__(self, ring: Mapping[str, bytes]) -> None:
        self._seal = Seal(ring, "request-state")

    def seal(self, state: Parked | Resend, context: bytes) -> str:
        return self._seal.seal(msgspec.json.encode(state), context)

    def open(self, text: str, context: bytes, *, now: float) -> Parked | Resend:
        """Raises Refusal: forged, expired, somebody else's, or of another request."""
        try:
            if len(text) > MAX_STATE:
                raise NotSealed
            state = msgspec.json.decode(self._seal.open(text, context), type=Parked | Resend)
            if state.until < now:
                raise NotSealed
        except NotSealed:
            raise Refusal(
                INVALID_PARAMS, "requestState is not valid for this request, or has expired"
            ) from None
        return state


def context_of(call: Call, asked: Asked) -> bytes:
    """What a requestState is worth something for."""
    parts = (call.route.tenant, call.route.environment, call.caller.principal, asked.method, asked.name)
    return msgspec.json.encode(("state", *parts))
