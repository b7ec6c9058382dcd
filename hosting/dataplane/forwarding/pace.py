"""What one tenant's streams may take of the loop that serves everybody.

An ordinary piece of a stream costs microseconds. A server that floods us costs milliseconds a piece, piece after piece. Such
time is paid for with a pause, PAUSE times as long, of all streams of that tenant: they are not read meanwhile, which holds the
servers back (nothing is lost), and the loop is the others'.
"""

from __future__ import annotations

import asyncio
import time

COSTLY_S = 0.0002
PAUSE = 4


class Pace:
    """One per tenant: `rest` before reading, `charge` after working on what was read."""

    __slots__ = ("_resumes_at",)

    def __init__(self) -> None:
        self._resumes_at = 0.0

    def charge(self, cpu_s: float) -> None:
        """`cpu_s` is the loop's time one piece took at a stretch; what is cheap is free."""
        if cpu_s >= COSTLY_S:
            self._resumes_at = max(self._resumes_at, time.monotonic()) + cpu_s * PAUSE

    async def rest(self) -> None:
        """Until what was charged is paid."""
        pause_s = self._resumes_at - time.monotonic()
        if pause_s > 0:
            await asyncio.sleep(pause_s)
