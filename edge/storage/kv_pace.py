"""KV's pace: one write a second to the same key; who writes sooner gets 429 and tries again.

Source: https://developers.cloudflare.com/kv/platform/limits/. Counted are single writes that would be done; bulk writes and deletes are
not, whatever the real service makes of those. Counts live in memory: a restart forgives.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from edge.storage.kv_rules import TooFast

MOST = 100_000
Place = tuple[str, str, bytes]


class Pace:
    """`interval_s` between two writes to one key; 0 lets everything through."""

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._written: dict[Place, float] = {}  # the oldest first

    def take(self, account: str, namespace_id: str, key: bytes) -> None:
        """Count one write. Raises TooFast."""
        if not self._interval_s:
            return
        now = self._clock()
        self._forget(now)
        place = account, namespace_id, key
        if place in self._written:
            raise TooFast
        self._written[place] = now

    def _forget(self, now: float) -> None:
        """Drop what no longer counts, and the oldest of what is too much to remember."""
        while self._written:
            place, written_at = next(iter(self._written.items()))
            if now - written_at < self._interval_s and len(self._written) < MOST:
                return
            del self._written[place]
