"""How one REST call is carried out: as its tenant, in one transaction, at most once per Idempotency-Key.

An error raised by a view crosses the transaction and takes everything back; the table in `smcp.api` makes it a problem.
A view that must wait outside its transaction (an upload) is marked `@by_hand` and uses `once` itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, TypeVar

from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Schema

from smcp.common.idempotency import Claim
from smcp.common.rest import Answer, keep, respond
from smcp.common.tenancy import as_operator, as_tenant
from tenants.auth import Call

View = TypeVar("View", bound=Callable[..., Any])


def call_of(request: HttpRequest) -> Call:
    """What `Needs` found out."""
    call = request.auth  # type: ignore[attr-defined]
    assert isinstance(call, Call)
    return call


def by_hand(view: View) -> View:
    """This view opens its own transactions."""
    view.is_by_hand = True  # type: ignore[attr-defined]
    return view


def door(view: Callable[..., Any]) -> Callable[..., Any]:
    """Around every view of the API (`NinjaAPI.add_decorator`)."""
    if iscoroutinefunction(view) or getattr(view, "is_by_hand", False):
        return view

    @wraps(view)
    def carried_out(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        with acting(call_of(request)):
            if request.method == "PATCH":
                _one_at_a_time(request.path)
            claim = claim_of(request, fingerprint=request.body) if request.method == "POST" else None
            kept = claim.take(now=timezone.now()) if claim else None
            if kept is None:
                answer = view(request, *args, **kwargs)
                kept = keep(Answer(answer) if isinstance(answer, Schema) else answer)
                if claim:
                    claim.keep(kept)
            return respond(request, kept)

    return carried_out


def _one_at_a_time(path: str) -> None:
    """Until the transaction ends: of two changes that saw the same entity tag, the second sees what the first did."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"patch:{path}"])


def acting(call: Call) -> AbstractContextManager[None]:
    """One transaction as the tenant of the path; without one, as the caller: a tenant's key, or an operator."""
    if call.tenant is not None:
        return as_tenant(call.tenant.id)
    if call.principal.tenant_id is not None:
        return as_tenant(call.principal.tenant_id)
    return as_operator()


def claim_of(request: HttpRequest, *, fingerprint: bytes) -> Claim | None:
    """What the `Idempotency-Key` header claims; None without one. `fingerprint`: what must be the same in a repetition."""
    key = request.headers.get("Idempotency-Key", "").strip()
    if not key:
        return None
    call = call_of(request)
    said = f"{request.method} {request.get_full_path()}\n".encode() + fingerprint
    return Claim(
        tenant_id=call.tenant.id if call.tenant else call.principal.tenant_id,
        principal=call.actor,
        key=key.strip('"'),
        fingerprint=hashlib.sha256(said).hexdigest(),
    )


@contextmanager
def released_on_error(call: Call, claim: Claim | None) -> Iterator[None]:
    """For work outside the claim's transaction: whatever goes wrong, the key is free again."""
    try:
        yield
    except BaseException:
        if claim:
            with acting(call):
                claim.release()
        raise
