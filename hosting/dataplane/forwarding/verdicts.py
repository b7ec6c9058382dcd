"""What an answer that is no success means: for the client, and for the server's health. Pure decisions, one place.

A server's 401 or 403 never reaches a client: it would send people to a stranger's sign-in. A 404 under a session of the server's
own ends the client's session (it will initialize again); without one it is an ordinary error, told with HTTP 200 to a legacy
client, since to it a 404 would mean the end of its session. The dispatcher's errors are the platform's, marked by its header.
"""

from __future__ import annotations

import msgspec

from hosting.dataplane.call import Plan
from hosting.dataplane.contract import Era
from hosting.dataplane.forwarding.upstream import Answer, FailureKind
from hosting.dataplane.protocol.era import SESSION_HEADER, Spoken, hear
from hosting.dataplane.protocol.errors import (
    ANSWER_CUT,
    ANSWER_TIMEOUT,
    ANSWER_TOO_LARGE,
    BROKEN_ANSWER,
    BUDGET_SPENT,
    HEAVY,
    METHOD_NOT_ALLOWED,
    OVERLOADED_BYTES,
    REMOTE_FORBIDDEN,
    REMOTE_FULL,
    REMOTE_LOCKED,
    RETRY_SOON,
    UNKNOWN_SESSION,
    UNREACHABLE,
    UPSTREAM_DENIED,
    UPSTREAM_FAILED,
    UPSTREAM_LIMITED,
    UPSTREAM_MISSING,
    Headers,
    JsonRpcId,
    Kind,
    Refusal,
)

FAILURES: dict[FailureKind, Kind] = {
    "refused": UNREACHABLE,
    "lost": UNREACHABLE,
    "timeout": ANSWER_TIMEOUT,
    "cut": ANSWER_CUT,
    "too_large": ANSWER_TOO_LARGE,
    "silent": ANSWER_TIMEOUT,
    "forbidden": REMOTE_FORBIDDEN,
    "locked": REMOTE_LOCKED,
    "full": REMOTE_FULL,
}
_DISPATCH: dict[str, Kind] = {
    "not-found": UPSTREAM_MISSING,
    "exception": UPSTREAM_FAILED,
    "limits": UPSTREAM_LIMITED,
}
NOT_ITS_FAULT = frozenset(
    kind.outcome
    for kind in (
        UNKNOWN_SESSION,
        METHOD_NOT_ALLOWED,
        HEAVY,
        OVERLOADED_BYTES,
        REMOTE_FULL,
        REMOTE_LOCKED,
        BUDGET_SPENT,
    )
)
MAX_RETRY_AFTER_S = 3600
METHOD_NOT_FOUND = -32601


class _Error(msgspec.Struct):
    """As much of a JSON-RPC error as is looked at."""

    code: int


def refuse_failure(kind: FailureKind, plan: Plan, *, is_hurried: bool = False) -> Refusal:
    """A server that could not be reached or did not answer; `is_hurried`: it had less time than its Environment gives it."""
    told = BUDGET_SPENT if kind == "timeout" and is_hurried else FAILURES[kind]
    headers = RETRY_SOON if kind == "full" else ()
    return Refusal(told, request_id=plan.first_id, headers=headers)


def refuse_dispatch(error: str, status: int, retry_after: str, request_id: JsonRpcId = None) -> Refusal:
    """What the dispatcher said instead of the server, in its header."""
    kind = _DISPATCH.get(error, UPSTREAM_DENIED)
    limited = 429 if kind is UPSTREAM_LIMITED and status == 429 else 0
    return Refusal(kind, request_id=request_id, headers=_retry_after(retry_after), status=limited)


def is_session_lost(plan: Plan, answer: Answer, body: bytes) -> bool:
    """Whether a server says with this answer that it does not know its own session; an unknown method is something else."""
    if answer.status != 404 or answer.dispatch_error or SESSION_HEADER not in plan.headers:
        return False
    spoken = _error_in(body)
    return spoken is None or _code_of(spoken) != METHOD_NOT_FOUND


def judge(era: Era, plan: Plan, answer: Answer, body: bytes) -> int:
    """The HTTP status with which an error of the server's own goes on to the client. Raises Refusal for every other."""
    status, request_id = answer.status, plan.first_id
    retry: Headers = _retry_after(answer.retry_after)
    if answer.dispatch_error:
        raise refuse_dispatch(answer.dispatch_error, status, answer.retry_after, request_id)
    if status in {401, 403}:
        raise Refusal(UPSTREAM_DENIED, request_id=request_id, data={"status": status})
    if is_session_lost(plan, answer, body):
        raise Refusal(UNKNOWN_SESSION, request_id=request_id)
    if status == 405 and plan.method == "GET":
        raise Refusal(
            METHOD_NOT_ALLOWED, "this server offers no stream", headers=(("allow", "POST, DELETE"),)
        )
    if status >= 500:
        raise Refusal(UPSTREAM_FAILED, request_id=request_id, data={"status": status})
    if status >= 400 and (spoken := _error_in(body)) is not None:
        if status == 429:
            raise Refusal(
                UPSTREAM_LIMITED, request_id=request_id, headers=retry, data={"status": status}, status=429
            )
        if spoken.id is None or spoken.answers(request_id):
            return 200 if era == "legacy" and status == 404 else status
    raise Refusal(BROKEN_ANSWER, request_id=request_id, data={"status": status})


def _error_in(body: bytes) -> Spoken | None:
    try:
        spoken = hear(body)
    except msgspec.MsgspecError:
        return None
    return spoken[0] if len(spoken) == 1 and spoken[0].error is not msgspec.UNSET else None


def _code_of(spoken: Spoken) -> int | None:
    try:
        return msgspec.json.decode(spoken.error, type=_Error).code if spoken.error else None
    except msgspec.MsgspecError:
        return None


def _retry_after(text: str) -> Headers:
    """Seconds only, and not for ever: a server's word, so bounded."""
    if not (text.isascii() and text.isdigit() and len(text) < 8):
        return ()
    return (("retry-after", str(min(int(text), MAX_RETRY_AFTER_S))),)
