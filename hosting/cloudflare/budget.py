"""The API budget of one Cloudflare account, shared by every worker: a bucket of permits in Redis.

Cloudflare counts 1,200 requests per five minutes and shuts a token out for five more when it sees one too many. A permit is
taken before a request and is back one window *after the request's end*. So however long a request was under way, and wherever the
vendor's window begins, no window ever holds more requests than there are permits: never a 429, and only the time requests are
under way is lost (a fraction of a percent). A constant refill would have to keep a burst's worth back for the same promise.

About 3 % of the permits are kept for what must not wait (rolling back, suspending). Work that a tenant can ask for as often as it likes
names it as the sharer, and no sharer has more than a tenth of the permits at a time: the others' work goes on. A permit whose worker died counts as if
its request had taken as long as requests may. If a 429 comes nevertheless (somebody else uses the token), everybody waits.
Redis emptied forgets what was spent; Redis away means nobody calls.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, cast

import redis

from hosting.cloudflare.errors import OutOfBudget, RateLimited

PRIORITY_SHARE: Final = 0.03
SHARE: Final = 0.1  # of all permits, for one sharer
REDIS_AWAY_S: Final = 2.0  # when to ask again
SHUT_OUT_S: Final = 300.0  # Cloudflare's own block, for a 429 that names no time

_TAKE: Final = """
-- KEYS: permits (sorted set: permit → when it is back, ms), block, and perhaps the sharer's own (the same for its share of them).
-- ARGV: permit, permits in all, kept back, ms until back at the latest, the sharer's most.
-- Returns 0 when taken, else in how many ms it may work.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local blocked = redis.call('PTTL', KEYS[2])
if blocked > 0 then return blocked end
local function wait(key, most)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  local out = redis.call('ZCARD', key)
  if out < most then return 0 end
  local next_back = redis.call('ZRANGE', key, out - most, out - most, 'WITHSCORES')
  return math.max(1, math.ceil(next_back[2] - now))
end
local most = wait(KEYS[1], ARGV[2] - ARGV[3])
if KEYS[3] then most = math.max(most, wait(KEYS[3], tonumber(ARGV[5]))) end
if most > 0 then return most end
for _, key in ipairs({KEYS[1], KEYS[3]}) do
  redis.call('ZADD', key, now + ARGV[4], ARGV[1])
  redis.call('PEXPIREAT', key, now + ARGV[4] + 1000)
end
return 0
"""
_END: Final = """
-- KEYS: permits, and perhaps the sharer's own. ARGV: permit, window in ms. The permit is back one window from now.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, key in ipairs(KEYS) do redis.call('ZADD', key, 'XX', now + ARGV[2], ARGV[1]) end
return 0
"""


class Budget:
    """Permits of one account. `window_s` and `requests` are the vendor's limit; `longest_s` is how long a request may take."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        installation: str,
        account: str,
        requests: int = 1200,
        window_s: float = 300.0,
        longest_s: float = 60.0,
    ) -> None:
        self._redis = client
        self._installation, self._account = installation, account
        self._permits = f"smcp:{installation}:budget:{account}"
        self._block = f"smcp:{installation}:budget-block:{account}"
        self._requests = requests
        self._kept = max(1, math.ceil(requests * PRIORITY_SHARE)) if requests > 1 else 0
        self._share = max(1, math.floor(requests * SHARE))
        self._window_ms = math.ceil(window_s * 1000)
        self._longest_ms = math.ceil(longest_s * 1000)
        self._take = client.register_script(_TAKE)
        self._end = client.register_script(_END)

    @contextmanager
    def permit(self, *, is_priority: bool = False, sharer: str = "") -> Iterator[None]:
        """One request may be made inside; `sharer` is the tenant (its id) that may have a share only. Raises OutOfBudget, which says
        when to come back."""
        permit = secrets.token_hex(8)
        kept = 0 if is_priority else self._kept
        try:
            wait_ms = cast(
                int,
                self._take(
                    keys=[self._permits, self._block, *self._of(sharer)],
                    args=[permit, self._requests, kept, self._window_ms + self._longest_ms, self._share],
                ),
            )
        except redis.RedisError as exc:
            raise OutOfBudget(
                "The API budget cannot be read: its Redis is away.", retry_after_s=REDIS_AWAY_S
            ) from exc
        if wait_ms:
            raise OutOfBudget("The API budget is used up for now.", retry_after_s=wait_ms / 1000)
        try:
            yield
        except RateLimited as exc:
            self._shut(exc.retry_after_s or SHUT_OUT_S)
            raise
        finally:
            self._finish(permit, sharer)

    def _of(self, sharer: str) -> list[str]:
        return [f"smcp:{self._installation}:t:{sharer}:budget:{self._account}"] if sharer else []

    def _finish(self, permit: str, sharer: str) -> None:
        try:
            self._end(keys=[self._permits, *self._of(sharer)], args=[permit, self._window_ms])
        except redis.RedisError:
            return  # it stays out for as long as a request may take: late, never early

    def _shut(self, for_s: float) -> None:
        try:
            self._redis.set(self._block, "1", px=max(1, math.ceil(for_s * 1000)))
        except redis.RedisError:
            return  # without Redis nobody calls anyway
