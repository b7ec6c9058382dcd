"""Content-Security-Policy of the console: everything comes from the console itself.

The theme's widgets are Alpine components, which evaluate their attributes ('unsafe-eval'); inline scripts and inline event
handlers stay forbidden, so injected markup runs nothing. The theme writes its colours into a style element.
"""

from __future__ import annotations

from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

_POLICY = (
    "default-src 'self'; "
    "script-src 'self' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; "
    "object-src 'none'; "
    "base-uri 'none'; "
    "form-action 'self'; "
    "frame-ancestors 'none'"
)


@sync_and_async_middleware
def content_security_policy(get_response: Any) -> Any:
    """Django middleware: the policy on every page."""
    if iscoroutinefunction(get_response):

        async def later(request: HttpRequest) -> HttpResponseBase:
            return _with_policy(await get_response(request))

        return later

    def now(request: HttpRequest) -> HttpResponseBase:
        return _with_policy(get_response(request))

    return now


def _with_policy(response: HttpResponseBase) -> HttpResponseBase:
    response.headers.setdefault("Content-Security-Policy", _POLICY)
    return response
