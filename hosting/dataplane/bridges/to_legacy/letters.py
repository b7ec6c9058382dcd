"""What the node that keeps a call and the node that its client came to write to each other, through the mailbox."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

import msgspec

from hosting.dataplane.door.exchange import ClientGone
from hosting.dataplane.protocol.errors import JsonRpcId
from hosting.dataplane.sessions.mailbox import Delivery, Mailbox

WINDOW = 32  # words that may be on their way; fewer than fit into a box
HEARD_EVERY = 8
FULL_S = 90.0  # how long a word waits for room, or for Redis: longer than for a client that does not read
AGAIN_S = 0.05


class Round(msgspec.Struct, tag="round"):
    """A client's next round has come to `node`, and waits at `box` there."""

    node: str
    box: str
    id: JsonRpcId
    level: str
    token: bytes | None
    responses: dict[str, bytes]


class Left(msgspec.Struct, tag="left"):
    """Whoever waited at `box` does not wait any more."""

    box: str


class Heard(msgspec.Struct, tag="heard"):
    """Who waits at `box` has passed the words up to `number` on."""

    box: str
    number: int


class Word(msgspec.Struct):
    """What the client is told. Numbered, since a letter may be sent twice; 0: only a sign of life."""

    number: int
    kind: Literal["alive", "say", "answer"]
    body: bytes = b""
    status: int = 200


def read_letter(letter: bytes) -> Round | Left | Heard:
    """What reaches the node that keeps the call."""
    return msgspec.msgpack.decode(letter, type=Round | Left | Heard)


class Letters:
    """A Sink whose client waits at a box, here or on another node."""

    def __init__(self, mailbox: Mailbox, tenant: str, word: Round) -> None:
        self.tenant = tenant
        self._mailbox = mailbox
        self._round = word
        self._number = self._heard = 0
        self._turn = asyncio.Lock()

    def heard(self, number: int) -> None:
        self._heard = max(self._heard, number)

    async def live(self) -> None:
        """A sign of life, where no words are on their way. Raises ClientGone when nobody waits any more."""
        if self._number - self._heard < HEARD_EVERY and await self._send(Word(0, "alive")) == "dead":
            raise ClientGone

    async def say(self, message: bytes) -> None:
        await self._post("say", message)

    async def answer(self, message: bytes, status: int) -> None:
        await self._post("answer", message, status)

    async def _post(self, kind: Literal["say", "answer"], body: bytes, status: int = 200) -> None:
        """Waits for room. Raises ClientGone."""
        async with self._turn:
            self._number += 1
            word, until = Word(self._number, kind, body, status), time.monotonic() + FULL_S
            while time.monotonic() < until:
                if self._number - self._heard <= WINDOW:
                    delivery = await self._send(word)
                    if delivery == "delivered":
                        return
                    if delivery == "dead":
                        break
                await asyncio.sleep(AGAIN_S)
            raise ClientGone

    async def _send(self, word: Word) -> Delivery:
        letter = msgspec.msgpack.encode(word)
        return await self._mailbox.post(self.tenant, self._round.box, letter, node=self._round.node)
