"""Errors on the REST door: RFC 9457 problem details, always with the id of the request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from django.http import HttpResponse

from smcp.common.correlation import correlation_id

CONTENT_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:smcp:problem:"

#: `code`s of what HTTP itself refuses, before any of our code has an opinion.
HTTP_CODES: Final[Mapping[int, str]] = {
    400: "bad-request",
    403: "denied",
    404: "not-found",
    405: "method-not-allowed",
    408: "too-slow",
    413: "too-large",
    500: "internal",
}
#: What to say where HTTP's own phrase is all there is.
HTTP_DETAILS: Final[Mapping[int, str]] = {
    400: "The address or the body cannot be read: it holds what no text can.",
    403: "This may not be done here.",
    404: "There is nothing at this address.",
    405: "This address does not take that method; the header Allow names those it takes.",
    500: "Something went wrong on our side. Quote the request_id when you ask about it.",
}


def problem_body(
    *,
    status: int,
    code: str,
    title: str,
    detail: str,
    instance: str,
    errors: Mapping[str, str] | None = None,
) -> bytes:
    """`errors`: field → what is wrong with it."""
    said: dict[str, object] = {
        "type": TYPE_PREFIX + code,
        "title": title,
        "status": status,
        "detail": detail,
        "instance": instance,
        "request_id": correlation_id.get(),
    }
    if errors:
        said["errors"] = [{"field": field, "detail": why} for field, why in errors.items()]
    return json.dumps(said, ensure_ascii=False).encode("utf-8", "backslashreplace")


def problem(
    *,
    status: int,
    code: str,
    title: str,
    detail: str,
    instance: str,
    errors: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> HttpResponse:
    body = problem_body(
        status=status, code=code, title=title, detail=detail, instance=instance, errors=errors
    )
    return HttpResponse(body, status=status, content_type=CONTENT_TYPE, headers=dict(headers or {}))


def http_problem(status: int, *, instance: str, headers: Mapping[str, str] | None = None) -> HttpResponse:
    """For an answer that only has a status."""
    title = HTTPStatus(status).phrase
    return problem(
        status=status,
        code=HTTP_CODES.get(status, "refused"),
        title=title,
        detail=HTTP_DETAILS.get(status, f"{title}."),
        instance=instance,
        headers=headers,
    )
