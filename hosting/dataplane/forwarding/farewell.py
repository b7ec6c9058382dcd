"""A session was ended by somebody who does not hold its id: what was logged of its streams goes, and one node tells the server that had
one of its own.

Every node hears of the end, and asks Redis for what is known of the server's session; asking takes it away, so one node gets it
and sends the DELETE. What this node has not written yet is written first. A server that cannot be reached, or a node that dies with
the answer in its hand, leaves a session on the server that nobody can use any more: it is the server's to forget.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable

from redis.exceptions import RedisError

from hosting.dataplane.call import Plan
from hosting.dataplane.contract import AnyFact, Revocation
from hosting.dataplane.facts.routes import Table
from hosting.dataplane.forwarding.journal import Journal
from hosting.dataplane.forwarding.sending import Sender
from hosting.dataplane.protocol.era import PROTOCOL_VERSION_HEADER, SESSION_HEADER
from hosting.dataplane.sessions.activity import Activity
from hosting.dataplane.sessions.renewals import Opening, Renewals
from hosting.dataplane.telemetry.logs import Damper, log

MAX_WAITING = 20_000
BATCH = 100
AT_ONCE = 16
LOOK_AGAIN_S = 1.0


class Farewells:
    """One per process. `run` never ends by itself."""

    def __init__(
        self,
        *,
        sender: Sender,
        renewals: Renewals,
        activity: Activity,
        journal: Journal,
        table: Callable[[], Table | None],
    ) -> None:
        self._sender = sender
        self._renewals = renewals
        self._activity = activity
        self._journal = journal
        self._table = table
        self._waiting: deque[Revocation] = deque(maxlen=MAX_WAITING)
        self._bell = asyncio.Event()
        self._damper = Damper()

    def heard(self, table: Table, fact: AnyFact | None) -> None:
        """After one fact, or (None) after a full load: a node that was away finds what nobody has taken."""
        if fact is None:
            self._waiting.extend(table.untold())
        elif isinstance(fact, Revocation) and fact.environment and not fact.is_gone:
            self._waiting.append(fact)
        if self._waiting:
            self._bell.set()

    async def run(self) -> None:
        while True:
            await self._bell.wait()
            self._bell.clear()
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                try:
                    await self._tell(batch)
                except (RedisError, OSError, TimeoutError) as exc:
                    self._damper.log("session.farewell_put_off", "redis", reason=type(exc).__name__)
                    self._waiting.extendleft(reversed(batch))
                    await asyncio.sleep(LOOK_AGAIN_S)
                except Exception:  # a surprise must not end a gateway
                    log("session.farewell_failed", level=logging.ERROR, exc_info=True)

    async def _tell(self, batch: list[Revocation]) -> None:
        await self._activity.flush()
        await asyncio.gather(*(self._journal.forget(fact.tenant, fact.session) for fact in batch))
        places = asyncio.Semaphore(AT_ONCE)

        async def say(fact: Revocation, opening: Opening) -> None:
            async with places:
                await self._say_goodbye(fact, opening)

        taken = await self._renewals.take(batch)
        sayings = [say(fact, opening) for fact, opening in zip(batch, taken, strict=True) if opening]
        await asyncio.gather(*sayings)

    async def _say_goodbye(self, fact: Revocation, opening: Opening) -> None:
        table = self._table()
        route = table.route_of(fact.environment) if table is not None else None
        target = (
            next((each for each in route.targets if each.release == opening.release), None) if route else None
        )
        if route is None or target is None or not opening.upstream_id:
            return  # the session is gone with its Release
        headers = {PROTOCOL_VERSION_HEADER: opening.revision, SESSION_HEADER: opening.upstream_id}
        request_id = f"end-{secrets.token_hex(8)}"
        plan = Plan(target=target, method="POST", headers=headers, body=None)
        await self._sender.say_goodbye(route, plan, request_id=request_id)
        log(
            "session.farewell",
            tenant=fact.tenant,
            environment=fact.environment,
            session=fact.session,
            request=request_id,
        )
