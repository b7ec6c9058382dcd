"""Modern requests before servers that speak only legacy revisions, one by one: what is answered here, and what becomes a call there."""

from __future__ import annotations

import time

from hosting.dataplane.bridges.to_legacy.asks import is_declined
from hosting.dataplane.bridges.to_legacy.facts import FactsKept, discovered, rules_in
from hosting.dataplane.bridges.to_legacy.headers import ToolRule, check_headers
from hosting.dataplane.bridges.to_legacy.listening import Listening
from hosting.dataplane.bridges.to_legacy.parking import Lot
from hosting.dataplane.bridges.to_legacy.pool import Pool
from hosting.dataplane.bridges.to_legacy.requests import MAY_ASK, REMOVED, Asked, read_request
from hosting.dataplane.bridges.to_legacy.run import Run
from hosting.dataplane.bridges.to_legacy.session import UpstreamSession, upkeep_of
from hosting.dataplane.bridges.to_legacy.state import Parked, States, context_of
from hosting.dataplane.bridges.to_legacy.talk import Talk
from hosting.dataplane.bridges.to_legacy.telling import Telling
from hosting.dataplane.call import EMPTY, Call, Plan
from hosting.dataplane.forwarding.breaker import is_hurried
from hosting.dataplane.forwarding.outlet import Outlet
from hosting.dataplane.forwarding.proxy import Proxy
from hosting.dataplane.forwarding.sending import Sender
from hosting.dataplane.forwarding.streams import Streams
from hosting.dataplane.forwarding.upstream import UpstreamFailure
from hosting.dataplane.forwarding.verdicts import FAILURES, NOT_ITS_FAULT, refuse_failure
from hosting.dataplane.protocol.era import LISTEN, MODERN_REVISIONS
from hosting.dataplane.protocol.errors import (
    INPUT_REFUSED,
    METHOD_NOT_FOUND,
    SESSION_GONE,
    UNKNOWN_SESSION,
    Refusal,
)
from hosting.dataplane.sessions.mailbox import Mailbox
from hosting.dataplane.settings import Settings
from hosting.dataplane.telemetry.metrics import Metrics

MAX_PAGES = 20  # of a server's tools that are looked at for rules


class ToLegacy:
    """One per process. `run` never ends by itself; `close` ends what is open at the servers."""

    def __init__(
        self,
        *,
        settings: Settings,
        sender: Sender,
        streams: Streams,
        proxy: Proxy,
        mailbox: Mailbox,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._streams = streams
        self._proxy = proxy
        self._states = States(settings.sealing_keys)
        self._talk = Talk(sender=sender, streams=streams)
        self._facts = FactsKept()
        self._pool = Pool(talk=self._talk, facts=self._facts, idle_s=settings.bridge_idle_s, metrics=metrics)
        self._lot = Lot(
            mailbox=mailbox,
            states=self._states,
            talk=self._talk,
            park_s=settings.bridge_park_s,
            metrics=metrics,
        )
        self._listening = Listening(talk=self._talk, pool=self._pool)

    async def run(self) -> None:
        await self._pool.run()

    async def wait_idle(self) -> None:
        """Until no call of this node goes on for a client on another."""
        await self._lot.wait_idle()

    async def close(self) -> None:
        await self._lot.close()
        await self._pool.close()

    async def serve(self, call: Call, plan: Plan) -> None:
        """Answers the call, whose message and headers were checked. Raises Refusal or ClientGone."""
        message = plan.messages[0]
        if message.kind == "notification":
            await call.exchange.answer(202, (*EMPTY, *call.extra))
            return
        began = time.monotonic()
        try:
            if message.method in REMOVED:
                raise Refusal(METHOD_NOT_FOUND)
            asked = read_request(message, plan.body or b"")
            await self._answer(call, plan, asked)
        except UpstreamFailure as exc:
            raise refuse_failure(exc.kind, plan, is_hurried=is_hurried(call, began)) from exc
        except Refusal as refusal:
            refusal.request_id = message.id
            raise

    async def _answer(self, call: Call, plan: Plan, asked: Asked) -> None:
        is_listening = asked.method == LISTEN
        outlet = Outlet(call, settings=self._settings, ids=[asked.id], is_listening=is_listening)
        text = asked.state
        if asked.method == "server/discover":
            work = self._discover(call, plan, asked, outlet)
        elif is_listening:
            work = self._listening.listen(call, plan, asked, outlet)
        elif text is None:
            work = self._call(call, plan, asked, outlet)
        else:
            state = self._states.open(text, context_of(call, asked), now=call.now)
            if isinstance(state, Parked):
                work = self._lot.go_on(call.route.tenant, asked, state, asked.responses, outlet)
            elif is_declined(state.keys, asked.responses):
                raise Refusal(INPUT_REFUSED)
            else:
                work = self._call(call, plan, asked, outlet)
        async with self._streams.open(call, plan.target.release, outlet):
            await outlet.run(work)

    async def _discover(self, call: Call, plan: Plan, asked: Asked, outlet: Outlet) -> None:
        facts = self._facts.get(
            (call.route.environment, plan.target.release, call.caller.principal, asked.bits)
        )
        if facts is None or (facts.can_listen is None and facts.may_have_news):
            session = await self._take(call, plan, asked)
            facts = session.facts
            self._pool.give_back(session)
        body = discovered(facts, list(MODERN_REVISIONS), asked.id)
        await outlet.answer(asked.id, body)

    async def _take(self, call: Call, plan: Plan, asked: Asked) -> UpstreamSession:
        """A session of which all is known that `discover` tells."""
        is_last = False
        while True:
            session = await self._pool.take(call, plan.target, asked.bits)
            try:
                await self._listening.learn(session)
                return session
            except BaseException as exc:
                self._pool.give_back(session)
                if not isinstance(exc, Refusal) or exc.kind is not UNKNOWN_SESSION:
                    raise
                self._pool.lose(session)
                if is_last:
                    raise Refusal(SESSION_GONE) from exc
                is_last = True

    async def _call(self, call: Call, plan: Plan, asked: Asked, outlet: Outlet) -> None:
        started = time.perf_counter()
        failure = ""
        run = await self._begun(call, plan, asked, started)
        is_parked = False
        try:
            try:
                await run.wait()
            except (Refusal, UpstreamFailure) as exc:
                failure = _failure_of(exc)
                raise
            finally:
                self._record(call, plan, started, failure, run.held)
            telling = Telling(
                run,
                asked,
                _ToClient(outlet, asked),
                park=lambda parked: self._lot.park(parked, call.caller.sticky),
                seal=self._states.seal,
            )
            is_parked = await telling.tell()
        finally:
            if not is_parked:
                run.cancel()

    async def _begun(self, call: Call, plan: Plan, asked: Asked, started: float) -> Run:
        """The call, under way at the server. A session that it has lost is opened anew, once: nothing was carried out."""
        is_last = False
        while True:
            session = await self._pool.take(call, plan.target, asked.bits)
            run = Run(
                talk=self._talk,
                pool=self._pool,
                session=session,
                errand=upkeep_of(call, until=call.until),
                asked=asked,
                context=context_of(call, asked),
            )
            try:
                await self._check(call, session, asked)
                if asked.method in MAY_ASK and session.may_ask:
                    await self._listening.ensure_stream(session)
                await run.start()
                return run
            except BaseException as exc:
                run.cancel()
                if not isinstance(exc, Refusal) or exc.kind is not UNKNOWN_SESSION:
                    if isinstance(exc, Refusal | UpstreamFailure):
                        self._record(call, plan, started, _failure_of(exc))
                    raise
                self._pool.lose(session)
                if is_last or not call.route.heals:
                    raise Refusal(SESSION_GONE) from exc
                is_last = True

    async def _check(self, call: Call, session: UpstreamSession, asked: Asked) -> None:
        """What a legacy server would not check of a call. Raises Refusal, UpstreamFailure."""
        if asked.method != "tools/call":
            return
        facts = session.facts
        if not facts.knows_tools:
            pages = await self._talk.pages(call, session, "tools/list", most=MAX_PAGES)
            facts.learn_tools(rules_in(pages) or {})
        rule = (facts.tools or {}).get(asked.name, ToolRule())
        if rule.needs_task:
            raise Refusal(METHOD_NOT_FOUND, "this tool can be called as a task only, and there are none here")
        check_headers(rule, asked.params.get("arguments"), call.headers)

    def _record(self, call: Call, plan: Plan, started: float, failure: str, size: int = 0) -> None:
        self._proxy.recorded(
            call,
            plan,
            latency_ms=(time.perf_counter() - started) * 1000,
            failure=failure,
            response_bytes=size,
        )


class _ToClient:
    """A Sink whose client is here."""

    def __init__(self, outlet: Outlet, asked: Asked) -> None:
        self._outlet = outlet
        self._asked = asked

    async def say(self, message: bytes) -> None:
        await self._outlet.say(message)

    async def answer(self, message: bytes, status: int) -> None:
        await self._outlet.answer(self._asked.id, message, status=status)


def _failure_of(exc: Refusal | UpstreamFailure) -> str:
    outcome = exc.kind.outcome if isinstance(exc, Refusal) else FAILURES[exc.kind].outcome
    return "" if outcome in NOT_ITS_FAULT or outcome == "bad_request" else outcome
