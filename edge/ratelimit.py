"""Cloudflare's limit on API requests: 1,200 per five minutes and token; who exceeds it is shut out for the next five minutes.

Source: https://developers.cloudflare.com/fundamentals/api/reference/limits/. The window is fixed and starts with a token's first
request. Counts live in memory: a restart forgives.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from edge.envelope import ApiError


class RateLimited(ApiError):
    """429 with `retry-after` in seconds. Clients should key on the status: Cloudflare's codes for it vary."""

    def __init__(self, retry_after_s: int, policy: str) -> None:
        super().__init__(
            429,
            971,
            "Please wait and consider throttling your request speed",
            headers={
                "retry-after": str(retry_after_s),
                "ratelimit": f'"default";r=0;t={retry_after_s}',
                "ratelimit-policy": policy,
            },
        )


@dataclass
class Window:
    """One token's requests. `until` ends the window, or the block when it `is_blocked`."""

    until: float
    count: int = 0
    is_blocked: bool = False


class RateLimiter:
    """`limit` requests per `window_s` and token; a limit of 0 lets everything through."""

    def __init__(self, limit: int, window_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._window_s = window_s
        self._clock = clock
        self._windows: dict[str, Window] = {}

    def take(self, token: str) -> dict[str, str]:
        """Count one request; the headers that tell its client where it stands. Raises RateLimited."""
        if self._limit == 0:
            return {}
        now = self._clock()
        window = self._windows.get(token)
        if window is None or now >= window.until:
            window = self._windows[token] = Window(until=now + self._window_s)
        policy = f'"default";q={self._limit};w={math.ceil(self._window_s)}'
        if not window.is_blocked and window.count >= self._limit:
            window.is_blocked, window.until = True, now + self._window_s
        left_s = math.ceil(window.until - now)
        if window.is_blocked:
            raise RateLimited(max(1, left_s), policy)
        window.count += 1
        return {
            "ratelimit": f'"default";r={self._limit - window.count};t={left_s}',
            "ratelimit-policy": policy,
        }
