"""Around every request: an id that follows it everywhere, and, on the REST door, problem+json for whatever went wrong."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from smcp.common.correlation import correlation_id
from smcp.common.ids import new_id
from smcp.common.problems import CONTENT_TYPE, http_problem

REQUEST_ID: Final = "X-Request-Id"
_ID_RE = re.compile(r"[A-Za-z0-9._-]{1,64}")

Next = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]


class _Both:
    """Runs on the event loop under ASGI, so it costs no thread, and plainly elsewhere."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Next) -> None:
        self.get_response = get_response
        self.is_async = bool(iscoroutinefunction(get_response))
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self.is_async:
            return self._later(request)
        refusal = self.before(request)
        return self.after(request, refusal or cast(HttpResponseBase, self.get_response(request)))

    async def _later(self, request: HttpRequest) -> HttpResponseBase:
        refusal = self.before(request)
        return self.after(
            request, refusal or await cast(Awaitable[HttpResponseBase], self.get_response(request))
        )

    def before(self, request: HttpRequest) -> HttpResponseBase | None:
        """An answer given here ends the request."""
        return None

    def after(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        return response


def request_id_of(given: str) -> str:
    """The client's `X-Request-Id` when it is a plain one, else a new one."""
    return given if _ID_RE.fullmatch(given) else new_id()


class RequestIds(_Both):
    """Every request has an id, and its answer says it."""

    def before(self, request: HttpRequest) -> HttpResponseBase | None:
        correlation_id.set(request_id_of(request.headers.get(REQUEST_ID, "")))
        return None

    def after(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        response[REQUEST_ID] = correlation_id.get()
        return response


class Problems(_Both):
    """For the REST door: errors that Django itself answers become problem+json, and nothing is kept by caches."""

    def before(self, request: HttpRequest) -> HttpResponseBase | None:
        # Postgres cannot hold NUL, so nothing anybody looks for has one in its name.
        is_nul = "\0" in request.path or "%00" in request.META.get("QUERY_STRING", "")
        return http_problem(400, instance=request.path) if is_nul else None

    def after(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if response.status_code >= 400 and response.get("Content-Type", "") != CONTENT_TYPE:
            kept = {name: response[name] for name in ("Allow", "Retry-After") if name in response}
            response = http_problem(response.status_code, instance=request.path, headers=kept)
        response.setdefault("Cache-Control", "no-store")
        response.setdefault("X-Content-Type-Options", "nosniff")
        return response
