"""Calling one script from the control plane, the way the data plane does: through the account's dispatcher, with an assertion.

DispatchError
├── ScriptAbsent     the dispatcher does not find the script (yet: a fresh one takes a moment to spread)
├── ScriptFailed     the script threw, or ran into its limits
└── DispatcherAway   nobody answered, or not the dispatcher we know
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Final
from urllib.parse import unquote, urlsplit

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.conf import settings

from hosting import names
from hosting.cloudflare.client import LOOPBACK
from hosting.dataplane.contract import ASSERTION_HEADER, ASSERTION_LIFE_S, Assertion, sign_assertion
from hosting.models import Account

DISPATCH_ERROR_HEADER: Final = "smcp-dispatch-error"
DISPATCH_MESSAGE_HEADER: Final = "smcp-dispatch-message"
MESSAGE_MAX: Final = 300
CONNECT_TIMEOUT_S: Final = 5.0


class DispatchError(Exception):
    pass


class ScriptAbsent(DispatchError):
    pass


class ScriptFailed(DispatchError):
    pass


class DispatcherAway(DispatchError):
    pass


@dataclass(frozen=True, kw_only=True)
class Dispatcher:
    """Where one account's dispatcher answers, and for whom we ask."""

    url: str
    host: str
    audience: str
    tenant_id: str
    egress: tuple[str, ...] = ()  # what the script may reach while it answers us


def dispatcher_of(account_id: str, *, tenant_id: str, egress: Sequence[str] = ()) -> Dispatcher:
    """Call inside a transaction; any role may read this much of an Account."""
    row = Account.objects.values("dispatch_url", "dispatch_host", "cloudflare_account_id").get(id=account_id)
    return Dispatcher(
        url=row["dispatch_url"],
        host=row["dispatch_host"],
        audience=names.audience(row["cloudflare_account_id"]),
        tenant_id=tenant_id,
        egress=tuple(egress),
    )


@contextmanager
def calling(
    dispatcher: Dispatcher,
    script: str,
    *,
    method: str = "POST",
    path: str = "/",
    headers: Mapping[str, str] | None = None,
    content: bytes | None = None,
    timeout_s: float = 15.0,
) -> Iterator[httpx.Response]:
    """The script's answer, body unread. Raises DispatchError; a tenant's own error status is an answer."""
    sent = {**(headers or {}), ASSERTION_HEADER: _assertion(dispatcher, script)}
    if dispatcher.host:
        sent["host"] = dispatcher.host
    try:
        with _http(urlsplit(dispatcher.url).hostname in LOOPBACK).stream(
            method,
            dispatcher.url.rstrip("/") + path,
            headers=sent,
            content=content,
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
        ) as answer:
            _check(answer)
            yield answer
    except httpx.InvalidURL as exc:
        raise DispatcherAway("The account's dispatch URL is not a URL.") from exc
    except httpx.HTTPError as exc:
        raise DispatcherAway(f"The dispatcher did not answer ({type(exc).__name__}).") from exc


def pieces_of(answer: httpx.Response, *, within_s: float) -> Iterator[bytes]:
    """The body as it comes. Raises ScriptFailed when it has not come to its end after that time, whatever it said meanwhile."""
    until = time.monotonic() + within_s
    for piece in answer.iter_bytes():
        yield piece
        if time.monotonic() > until:
            raise ScriptFailed(f"The code did not come to the end of its answer within {within_s:g} s.")


def _check(answer: httpx.Response) -> None:
    match answer.headers.get(DISPATCH_ERROR_HEADER):
        case None:
            return
        case "not-found":
            raise ScriptAbsent("The dispatcher does not know the script yet.")
        case "exception":
            raise ScriptFailed(_thrown(answer.headers.get(DISPATCH_MESSAGE_HEADER, "")))
        case "limits":
            raise ScriptFailed("The code ran into its CPU or memory limit.")
        case reason:
            raise DispatcherAway(f"The dispatcher answered {answer.status_code} ({reason[:40]}).")


def _thrown(encoded: str) -> str:
    """A sentence with what the tenant's code threw: its own words, for the tenant alone."""
    said = "".join(char if char.isprintable() else " " for char in unquote(encoded)).strip()[:MESSAGE_MAX]
    return "The code threw an exception before it answered" + (f": “{said}”." if said else ".")


def _assertion(dispatcher: Dispatcher, script: str) -> str:
    kid, seed = next(iter(settings.DISPATCH_KEYS.items()))
    now = int(time.time())
    assertion = Assertion(
        aud=dispatcher.audience,
        ten=dispatcher.tenant_id,
        wrk=script,
        iat=now,
        exp=now + ASSERTION_LIFE_S,
        egress=dispatcher.egress,
    )
    return sign_assertion(assertion, kid=kid, key=Ed25519PrivateKey.from_private_bytes(seed))


@cache
def _http(is_loopback: bool) -> httpx.Client:
    return httpx.Client(trust_env=not is_loopback, follow_redirects=False)


# A forked worker must not share its parent's sockets.
os.register_at_fork(after_in_child=_http.cache_clear)
