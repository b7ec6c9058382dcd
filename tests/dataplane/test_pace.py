"""What a slow piece costs the streams beside it."""

from __future__ import annotations

import asyncio
import time

from hosting.dataplane.forwarding.pace import Line, Pace, is_cheap

SLOW_S = 0.01


def test_one_slow_piece_is_paid_once_and_not_by_everybody_who_waits_meanwhile() -> None:
    """Each of a thousand streams that paid for it would make the last one wait for forty seconds."""

    async def rest_all() -> float:
        pace = Pace(Line())
        pace.charge(SLOW_S)
        began = time.monotonic()
        await asyncio.gather(*(pace.rest() for _ in range(1000)))
        return time.monotonic() - began

    assert SLOW_S < asyncio.run(rest_all()) < 15


def test_only_what_is_small_however_it_is_cut_is_cheap() -> None:
    assert is_cheap(b'data: {"jsonrpc":"2.0","method":"notifications/message"}\n\n')
    assert not is_cheap(b"data: " + b"x" * 4096 + b"\n\n")
    assert not is_cheap(b"data:\n\n" * 20)
    assert not is_cheap(b"data:\r\r" * 20)
