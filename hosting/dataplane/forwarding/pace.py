"""What one tenant's streams and large answers may take of the loop that serves everybody.

An ordinary piece of a stream costs microseconds. A server that floods us costs milliseconds a piece, piece after piece, on every
stream it has. Such time is paid for with a pause, PAUSE times as long: the costly Environments of a tenant go on one piece at a time, in
line, and are not read meanwhile, which holds their servers back (nothing is lost), and the loop is the others'. An Environment that
cost nothing of late does not stand in that line, whatever else its tenant runs.
"""

from __future__ import annotations

import asyncio
import time

COSTLY_S = 0.0002
PAUSE = 4
FADES = 0.9
REMEMBERED_S = 60.0  # so long an Environment that was costly counts as one, unless cheap pieces follow
SHORTEST_S = 0.002  # debts below are left to grow: the loop's timers are no finer than a millisecond
S_PER_BYTE = 0.0001 / (16 * 1024)  # of the loop, for bytes that only pass: measured 0.1 ms for 16 KiB
CHEAP_BYTES, CHEAP_LINES = 2048, 8


class Line:
    """A tenant's costly Environments, one piece at a time."""

    __slots__ = ("_lock", "_resumes_at")

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._resumes_at = 0.0

    async def turn(self, pace: Pace) -> None:
        """Until what was taken is paid. What the next piece will take, as far as is known, is paid for ahead, or everybody who waits
        would go at once. Whoever turns out to cost nothing by then pays nothing: one slow piece must not cost a thousand others."""
        async with self._lock:
            if pace.is_idle:
                return
            pause_s = self._resumes_at - time.monotonic()
            if pause_s > SHORTEST_S:
                await asyncio.sleep(pause_s)
            self.owe(pace.pay_ahead())

    def owe(self, cost_s: float) -> None:
        self._resumes_at = max(self._resumes_at, time.monotonic()) + cost_s * PAUSE


class Pace:
    """An Environment's: `rest` before reading, `charge` after working on what was read."""

    __slots__ = ("_cost_s", "_line", "_paid_s", "_until")

    def __init__(self, line: Line) -> None:
        self._line = line
        self._cost_s = 0.0  # of its costly pieces, fading with each that is not
        self._paid_s = 0.0  # of that, ahead
        self._until = 0.0  # when it is forgotten

    @property
    def is_idle(self) -> bool:
        return self._cost_s < COSTLY_S / 2 or time.monotonic() >= self._until

    def charge(self, cpu_s: float) -> None:
        """`cpu_s` is the loop's time one piece took at a stretch; what is cheap is free."""
        if cpu_s >= COSTLY_S:
            self._note(cpu_s)

    def charge_bytes(self, size: int) -> None:
        """For bytes of which there are too many to be free, and which nobody looks at."""
        self._note(size * S_PER_BYTE)

    async def rest(self) -> None:
        """Until it is this one's turn; at once for who cost nothing of late."""
        if self.is_idle:
            return
        await self._line.turn(self)

    def pay_ahead(self) -> float:
        """What the next piece is expected to cost."""
        self._paid_s = self._cost_s
        self._cost_s *= FADES
        return self._paid_s

    def _note(self, cost_s: float) -> None:
        """What was not paid for ahead is owed now."""
        paid_s, self._paid_s = self._paid_s, max(0.0, self._paid_s - cost_s)
        self._cost_s = max(self._cost_s, cost_s)
        self._until = time.monotonic() + REMEMBERED_S
        if cost_s > paid_s:
            self._line.owe(cost_s - paid_s)


def is_cheap(piece: bytes) -> bool:
    """Whether it cannot be costly, whatever is in it. To measure it would cost a tenth of what it does, and would count against its server
    what the process does meanwhile (collecting garbage)."""
    return len(piece) <= CHEAP_BYTES and piece.count(b"\n") + piece.count(b"\r") <= CHEAP_LINES
