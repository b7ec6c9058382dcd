"""A planned request's answer, from a server that may have lost its session first."""

from __future__ import annotations

from hosting.dataplane.call import Call, Plan
from hosting.dataplane.forwarding.healing import Healer
from hosting.dataplane.forwarding.sending import Sender
from hosting.dataplane.forwarding.upstream import Answer
from hosting.dataplane.forwarding.verdicts import is_session_lost
from hosting.dataplane.protocol.errors import UNKNOWN_SESSION, Refusal

MAX_ERROR_BYTES = 256 * 1024


class Asker:
    """One per process."""

    def __init__(self, *, sender: Sender, healer: Healer) -> None:
        self._sender = sender
        self._healer = healer

    async def ask(self, call: Call, plan: Plan) -> tuple[Plan, Answer]:
        """The answer's head, under a new session of the server's where it has lost the old one (then the Plan is another).

        Raises UpstreamFailure, Refusal.
        """
        may_heal = plan.session is not None and self._healer.may_heal(call, plan)
        if plan.is_stranded:
            if not may_heal:
                raise Refusal(UNKNOWN_SESSION, request_id=plan.first_id)
            plan, may_heal = await self._healer.heal(call, plan), False
        answer = await self._sender.send(call, plan)
        if answer.status != 404 or not may_heal:
            return plan, answer
        try:
            body = await answer.read(
                limit=MAX_ERROR_BYTES,
                timeout_s=call.within_budget(call.route.limits.answer_timeout_s),
                share=call.share,
            )
            if not is_session_lost(plan, answer, body):
                return plan, answer
        except BaseException:
            answer.close()
            raise
        answer.close()
        plan = await self._healer.heal(call, plan)
        return plan, await self._sender.send(call, plan)
