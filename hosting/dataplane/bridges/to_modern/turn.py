"""One request of a legacy client on its way to its answer, over as many rounds as its server asks for.

A server that needs something of the user answers "input required", with questions and a state. Each question goes to the client as a
request on this request's stream; its answers come by POST, at any node. The request is then sent again, with these answers and
that state. No more than MAX_ROUNDS rounds, each as long as the installation allows.

However it ends, what is still open is ended with it: the server's answer is closed (which cancels it there), and the client is told
which questions nobody waits for any more. A node that goes while its client is asked leaves the request to whichever the client comes
back to (`parking.py`); at any other time it takes the request with it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from hosting.dataplane.bridges.to_modern.answers import (
    HEADER_MISMATCH,
    INTERNAL,
    Error,
    InputRequired,
    Unanswerable,
    body_of_error,
    body_of_unanswerable,
    conclude,
    error_of,
    result_body,
)
from hosting.dataplane.bridges.to_modern.asked import Asked, Fields
from hosting.dataplane.bridges.to_modern.errands import Errands
from hosting.dataplane.bridges.to_modern.param_headers import headers_of
from hosting.dataplane.bridges.to_modern.parking import Parking, Round, round_of
from hosting.dataplane.bridges.to_modern.questions import Question, Questions, Waiter, read_answer, withdrawal
from hosting.dataplane.bridges.to_modern.running import Ongoing
from hosting.dataplane.bridges.to_modern.toolbook import Books, rewrite_list
from hosting.dataplane.bridges.to_modern.way import Attempt, Way, Ways
from hosting.dataplane.bridges.to_modern.wrapping import wrapped_result
from hosting.dataplane.door.exchange import ClientGone
from hosting.dataplane.forwarding.asking import MAX_ERROR_BYTES
from hosting.dataplane.forwarding.conversation import Said
from hosting.dataplane.forwarding.outlet import Outlet
from hosting.dataplane.forwarding.upstream import UpstreamFailure
from hosting.dataplane.protocol.era import hear
from hosting.dataplane.protocol.errors import ANSWER_CUT, Refusal
from hosting.dataplane.sessions.session import Session
from hosting.dataplane.sessions.wishes import Wishes

MAX_ROUNDS = 10
STATE_ONLY_S = 0.25  # before a server is asked again that only wants to be asked again
LINGER_S = 0.5  # for a server to end a stream whose answer has come, so that its connection can be used again


@dataclass(frozen=True, slots=True)
class Parts:
    """What every request needs."""

    ways: Ways
    errands: Errands
    books: Books
    questions: Questions
    wishes: Wishes
    parking: Parking
    node: str
    question_s: float


class Turn:
    """One request. `begin`, then `go_on` where that was not enough, and `close` in `finally`."""

    def __init__(self, parts: Parts, way: Way, session: Session, asked: Asked, ongoing: Ongoing) -> None:
        self._parts = parts
        self._way = way
        self._session = session
        self._asked = asked
        self._ongoing = ongoing
        self._attempt: Attempt | None = None
        self._wanted: InputRequired | None = None
        self._rounds = 0
        self._number = 0
        self._is_answered = False  # this round

    async def begin(self) -> bytes | None:
        """The answer, if it came whole and at once; otherwise `go_on`. Raises Refusal."""
        attempt = await self._ask()
        if attempt.is_stream:
            return None
        reply = await self._reply(attempt, None)
        if isinstance(reply, InputRequired):
            self._wanted = reply
            return None
        return reply

    async def go_on(self, outlet: Outlet) -> None:
        """Until the answer is given. Raises Refusal."""
        wanted, self._wanted = self._wanted, None
        reply: bytes | InputRequired = wanted or await self._reply(self._attempt or await self._ask(), outlet)
        await self._finish(outlet, reply)

    async def take_up(self, outlet: Outlet, waiting: Round) -> None:
        """`go_on` with a round of questions that another node had asked. Raises Refusal."""
        self._rounds, self._number = waiting.rounds, waiting.questions[-1][0]
        questions = [Question(key, question_id, b"") for _, key, question_id in waiting.questions]
        try:
            self._asked = await self._answered(outlet, waiting, questions, is_parked=True, is_asked=True)
        except Unanswerable as exc:
            await outlet.answer(self._asked.id, body_of_unanswerable(self._asked, str(exc)))
            return
        await self._finish(outlet, await self._reply(await self._ask(), outlet))

    async def _finish(self, outlet: Outlet, reply: bytes | InputRequired) -> None:
        while isinstance(reply, InputRequired):
            try:
                self._asked = await self._next_round(outlet, reply)
            except Unanswerable as exc:
                reply = body_of_unanswerable(self._asked, str(exc))
                break
            reply = await self._reply(await self._ask(), outlet)
        await outlet.answer(self._asked.id, reply)

    async def close(self) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            return
        try:
            if attempt.is_stream and self._is_answered:
                with suppress(UpstreamFailure):
                    await attempt.answer.next_piece(timeout_s=LINGER_S)
        finally:
            attempt.close()

    async def _ask(self) -> Attempt:
        """The head of this round's answer; a call whose headers did not fit is sent once more, with what the tool says now."""
        await self.close()
        attempt = self._attempt = await self._send()
        if attempt.answer.status != 400 or self._asked.method != "tools/call":
            return attempt
        call = self._way.call
        with self._parts.ways.counted(self._way, attempt.plan, attempt.started):
            body = await attempt.answer.read(
                limit=MAX_ERROR_BYTES,
                timeout_s=call.within_budget(call.route.limits.answer_timeout_s),
                share=call.share,
            )
        if not _is_header_mismatch(body):
            return attempt
        await self.close()
        await self._parts.errands.learn_tools(self._way)
        self._attempt = await self._send()
        return self._attempt

    async def _send(self) -> Attempt:
        asked, parts, headers = self._asked, self._parts, {}
        self._is_answered = False
        if asked.method == "tools/call":
            book = parts.books.of(self._way.call.route.environment, self._way.target.release)
            annotations = book.find(asked.name).headers
            headers = headers_of(annotations, asked.arguments()) if annotations else {}
        return await parts.ways.ask(self._way, asked, level=await self._level(), headers=headers)

    async def _level(self) -> str:
        """Of messages the client wants. Not looked for where the server is known to send none."""
        told = self._parts.errands.last_heard(self._way)
        if told is not None and not told.declares("logging"):
            return ""
        return await self._parts.wishes.level(self._session, self._way.call.route)

    async def _reply(self, attempt: Attempt, outlet: Outlet | None) -> bytes | InputRequired:
        """What this round brought, as the client hears it; what comes before it goes on at once."""
        with self._parts.ways.counted(self._way, attempt.plan, attempt.started):
            async for said in attempt.conversation.messages():
                spoken = said.spoken
                if spoken.answers(self._asked.upstream_id) or (said.status != 200 and spoken.is_answer):
                    self._parts.ways.answered(self._way, attempt, len(said.raw))
                    self._is_answered = True
                    return await self._conclude(said)
                if outlet is not None and spoken.method is not None and spoken.id is None:
                    await outlet.say(said.raw)
            raise Refusal(ANSWER_CUT)

    async def _conclude(self, said: Said) -> bytes | InputRequired:
        asked = self._asked
        try:
            outcome = conclude(asked, said.spoken)
        except Unanswerable as exc:
            return body_of_unanswerable(asked, str(exc))
        if isinstance(outcome, InputRequired):
            return outcome
        if isinstance(outcome, Error):
            return body_of_error(asked, outcome)
        if asked.method == "tools/list":
            return self._list_tools(outcome)
        if "structuredContent" in outcome and await self._is_wrapped(outcome["structuredContent"]):
            outcome = wrapped_result(outcome)
        return result_body(asked, outcome)

    def _list_tools(self, result: Fields) -> bytes:
        book = self._parts.books.of(self._way.call.route.environment, self._way.target.release)
        is_all = "cursor" not in self._asked.params and "nextCursor" not in result
        try:
            rewritten = rewrite_list(result, book)
        except (msgspec.MsgspecError, RecursionError):
            return body_of_error(self._asked, Error(INTERNAL, "the server's list of tools is not MCP"))
        book.is_whole = book.is_whole or is_all
        return result_body(self._asked, rewritten)

    async def _is_wrapped(self, value: msgspec.Raw) -> bool:
        """Whether the client was told a wrapped schema for this result."""
        if self._asked.method != "tools/call":
            return False
        if bytes(value)[:1] != b"{":
            return True
        book = self._parts.books.of(self._way.call.route.environment, self._way.target.release)
        if self._asked.name not in book.tools and not book.is_whole:
            with suppress(Refusal):
                await self._parts.errands.learn_tools(self._way)
        return book.find(self._asked.name).is_wrapped

    async def _next_round(self, outlet: Outlet, wanted: InputRequired) -> Asked:
        """Raises Unanswerable."""
        self._rounds += 1
        if self._rounds > MAX_ROUNDS:
            raise Unanswerable(f"the server asked for input more than {MAX_ROUNDS} times")
        if not wanted.questions:
            await asyncio.sleep(STATE_ONLY_S)
            return self._asked.again(None, wanted.state)
        first = self._number + 1
        questions = list(self._written(wanted.questions))
        waiting = self._round(outlet.stream_id, wanted.state, first, questions)
        is_parked = await self._parts.parking.park(self._session, self._way.call.route, waiting)
        return await self._answered(outlet, waiting, questions, is_parked=is_parked)

    async def _answered(
        self,
        outlet: Outlet,
        waiting: Round,
        questions: list[Question],
        *,
        is_parked: bool,
        is_asked: bool = False,
    ) -> Asked:
        """The next round's request, once all is answered. Raises Unanswerable."""
        first, call, asked_at = waiting.questions[0][0], self._way.call, time.monotonic()
        with suppress(Refusal):  # whoever waits for a user takes nobody's turn at the server
            call.place.listen()
        numbers = {first + at: question for at, question in enumerate(questions)}
        open_ = {self._ongoing.asks(number): question for number, question in numbers.items()}
        is_over = True
        try:
            for question in questions if not is_asked else ():
                await outlet.say(question.message)
            if is_asked:
                await self._recall(waiting)
            answers = await self._gather(open_, waiting.box if is_parked else "")
            return self._asked.again(answers, msgspec.Raw(waiting.state) if waiting.state else None)
        except asyncio.CancelledError:
            if is_parked and outlet.hands_over:
                is_over = False
                outlet.hand_over()
            raise
        finally:
            call.until += time.monotonic() - asked_at  # nor does a user's time count as the server's
            self._ongoing.settle()
            if is_over:
                for question in open_.values():
                    with suppress(ClientGone):
                        await outlet.say(withdrawal(question, "the answer is not waited for any more"))
                if is_parked:
                    await self._parts.parking.unpark(self._session, call.route, waiting)

    def _round(self, stream: str, state: msgspec.Raw | None, first: int, questions: list[Question]) -> Round:
        return round_of(
            self._asked,
            release=self._way.target.release,
            stream=stream,
            box=self._ongoing.box_name,
            rounds=self._rounds,
            state=state,
            questions=tuple((first + at, one.key, one.id) for at, one in enumerate(questions)),
        )

    async def _recall(self, waiting: Round) -> None:
        """What was answered while nobody was there to hear it."""
        route = self._way.call.route
        await self._parts.parking.move(self._session, route, waiting.box)
        for number, body in (await self._parts.parking.answers(self._session, route, waiting.box)).items():
            self._ongoing.hear(number, body)
        await self._ongoing.collect()

    def _written(self, questions: Fields) -> Iterator[Question]:
        for key, raw in questions.items():
            self._number += 1
            waiter = Waiter(self._parts.node, self._ongoing.box_name, self._number)
            yield self._parts.questions.write(key, raw, waiter, self._session, self._way.call.route)

    async def _gather(self, waiting: dict[asyncio.Future[bytes], Question], parked_in: str) -> Fields:
        """Takes what is answered out of `waiting`. Raises Unanswerable for the first refusal."""
        answers: Fields = {}
        deadline = time.monotonic() + self._parts.question_s
        while waiting:
            left_s = deadline - time.monotonic()
            done, _ = await asyncio.wait(waiting, timeout=max(left_s, 0), return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise Unanswerable("the client did not answer in time")
            for future in done:
                question, body = waiting.pop(future), future.result()
                self._way.call.share.take(len(body))
                answers[question.key] = read_answer(body)
                if waiting and parked_in:  # whoever has to go on must not ask again
                    await self._parts.parking.keep_answer(
                        self._session, self._way.call.route, parked_in, self._number_of(question), body
                    )
        return answers

    def _number_of(self, question: Question) -> int:
        waiter = self._parts.questions.waiter_of(question.id, self._session, self._way.call.route)
        return 0 if waiter is None else waiter.number


def _is_header_mismatch(body: bytes) -> bool:
    try:
        spoken = hear(body)
    except msgspec.MsgspecError:
        return False
    error = error_of(spoken[0]) if len(spoken) == 1 else None
    return error is not None and error.code == HEADER_MISMATCH
