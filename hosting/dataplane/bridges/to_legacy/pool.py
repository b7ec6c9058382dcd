"""The sessions with legacy servers, kept between a modern client's requests.

One for each Environment, Release, Principal and set of client capabilities; MAX_OF_PRINCIPAL of one Principal at one Environment; ended
upstream when nobody used it for `idle_s`, and when the gateway stops. Anonymous callers and probes are told apart by nothing, so where the server
keeps sessions each of their calls gets one of its own, which ends with it. A node that is killed leaves its sessions to the server's own expiry.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from hosting.dataplane.bridges.to_legacy.facts import FactsKept, Key
from hosting.dataplane.bridges.to_legacy.session import UpstreamSession
from hosting.dataplane.bridges.to_legacy.talk import Talk
from hosting.dataplane.call import Call
from hosting.dataplane.contract import Target
from hosting.dataplane.protocol.errors import BUSY, RETRY_SOON, Refusal
from hosting.dataplane.telemetry.metrics import Metrics

MAX_OF_PRINCIPAL = 8
MAX_OF_ENVIRONMENT = 1000
MAX_OF_NODE = 10_000
SWEEP_S = 1.0


class Pool:
    """One per process. `run` never ends by itself."""

    def __init__(self, *, talk: Talk, facts: FactsKept, idle_s: float, metrics: Metrics) -> None:
        self._talk = talk
        self._facts = facts
        self._idle_s = idle_s
        self._sessions: OrderedDict[Key, UpstreamSession] = OrderedDict()  # the least recently used first
        self._opening: dict[Key, asyncio.Task[None]] = {}
        self._of_principal: Counter[tuple[str, str]] = Counter()
        self._of_environment: Counter[str] = Counter()
        metrics.bridged_sessions.set_function(lambda: len(self._sessions))

    async def take(self, call: Call, target: Target, bits: int) -> UpstreamSession:
        """For one user, until it is given back. Raises Refusal, UpstreamFailure."""
        key = (call.route.environment, target.release, call.caller.principal, bits)
        while True:
            session = self._sessions.get(key)
            if session is not None:
                self._sessions.move_to_end(key)
                session.users += 1
                return session
            if call.caller.kind != "api_key":
                return await self._take_alone(call, target, bits)
            await self._ensure(call, target, key)

    def give_back(self, session: UpstreamSession) -> None:
        session.users -= 1
        session.used_at = time.monotonic()
        if session.is_exclusive and not session.users:
            self._talk.aside(self._talk.end(session))

    def lose(self, session: UpstreamSession) -> None:
        """The server does not know it any more: nobody is to take it again."""
        if not session.is_lost:
            session.lose()
            self._remove(session)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self._end_idle(time.monotonic() - self._idle_s)

    async def close(self) -> None:
        """Ends all of them, as far as the servers answer soon."""
        for session in list(self._sessions.values()):
            self._end(session)
        await self._talk.wait_aside()

    async def _take_alone(self, call: Call, target: Target, bits: int) -> UpstreamSession:
        """A server that keeps no session has nothing that two callers could share."""
        session = await self._talk.open(call, target, bits)
        self._facts.put(session.key, session.facts)
        session.users = 1
        session.is_exclusive = bool(session.upstream_id) or not self._has_room(session.key)
        if not session.is_exclusive:
            self._add(session)
        return session

    def _has_room(self, key: Key) -> bool:
        environment, _, principal, _ = key
        return (
            key not in self._sessions
            and self._of_principal[environment, principal] < MAX_OF_PRINCIPAL
            and self._of_environment[environment] < MAX_OF_ENVIRONMENT
            and len(self._sessions) < MAX_OF_NODE
        )

    async def _ensure(self, call: Call, target: Target, key: Key) -> None:
        """That there is one, opened once however many wait for it."""
        task = self._opening.get(key)
        if task is None:
            self._make_room(key)
            task = self._opening[key] = asyncio.create_task(self._open(call, target, key))
            task.add_done_callback(lambda done: self._opened(key, done))
        try:
            await asyncio.shield(task)
        except Refusal as refusal:  # each who waited gets one of its own
            raise Refusal(
                refusal.kind,
                refusal.message,
                data=refusal.data,
                headers=refusal.headers,
                status=refusal.status,
            ) from refusal

    async def _open(self, call: Call, target: Target, key: Key) -> None:
        session = await self._talk.open(call, target, key[3])
        self._facts.put(key, session.facts)
        self._add(session)

    def _opened(self, key: Key, task: asyncio.Task[None]) -> None:
        self._opening.pop(key, None)
        if not task.cancelled():
            task.exception()  # everybody who waited for it may have left

    def _make_room(self, key: Key) -> None:
        """Raises Refusal when all that there may be are in use."""
        environment, _, principal, _ = key
        coming = Counter((opening[0], opening[2]) for opening in self._opening)
        has = self._of_principal[environment, principal] + coming[environment, principal]
        if has >= MAX_OF_PRINCIPAL:
            self._drop_one(lambda other: (other[0], other[2]) == (environment, principal))
        if self._of_environment[environment] >= MAX_OF_ENVIRONMENT:
            self._drop_one(lambda other: other[0] == environment)
        if len(self._sessions) + len(self._opening) >= MAX_OF_NODE:
            self._drop_one(lambda other: True)

    def _drop_one(self, may_go: Callable[[Key], bool]) -> None:
        for key, session in self._sessions.items():
            if not session.users and may_go(key):
                self._end(session)
                return
        raise Refusal(BUSY, "too many sessions with this server are in use", headers=RETRY_SOON)

    def _end_idle(self, before: float) -> None:
        for session in list(self._sessions.values()):
            if not session.users and session.used_at < before:
                self._end(session)

    def _add(self, session: UpstreamSession) -> None:
        environment, _, principal, _ = session.key
        self._sessions[session.key] = session
        self._of_principal[environment, principal] += 1
        self._of_environment[environment] += 1

    def _end(self, session: UpstreamSession) -> None:
        self._remove(session)
        self._talk.aside(self._talk.end(session))

    def _remove(self, session: UpstreamSession) -> None:
        environment, _, principal, _ = session.key
        if self._sessions.get(session.key) is not session:
            return
        del self._sessions[session.key]
        self._of_principal -= Counter([(environment, principal)])  # which forgets what has come to nothing
        self._of_environment -= Counter([environment])
