"""Cloudflare's answer, and its errors: `{success, errors, messages, result, result_info}` around everything.

Source: https://developers.cloudflare.com/fundamentals/api/how-to/make-api-calls/#response-format; codes are per product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from edge.reading import NotJson, decoded

T = TypeVar("T")
MAX_JSON_BODY = 10 * 1024 * 1024


class ApiError(Exception):
    """An answer that is not a success: HTTP status, the product's code, one sentence.

    Subclasses live beside what raises them: BadRequest here, the auth errors in auth.py, the storage errors in storage/.
    """

    def __init__(
        self,
        status: int,
        code: int,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        chain: Sequence[tuple[int, str]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})
        self.chain = chain

    def response(self) -> web.Response:
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.chain:
            error["error_chain"] = [{"code": code, "message": message} for code, message in self.chain]
        return failure(self.status, [error], headers=self.headers)


class BadRequest(ApiError):
    """The request cannot be understood; nothing was changed."""

    def __init__(self, message: str, code: int = 6003) -> None:
        super().__init__(400, code, message)


def success(
    result: Any,
    *,
    status: int = 200,
    result_info: Mapping[str, Any] | None = None,
    messages: Sequence[Mapping[str, Any]] = (),
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    body: dict[str, Any] = {"result": result, "success": True, "errors": [], "messages": list(messages)}
    if result_info is not None:
        body["result_info"] = result_info
    return json_response(body, status=status, headers=headers)


def failure(
    status: int, errors: Sequence[Mapping[str, Any]], *, headers: Mapping[str, str] | None = None
) -> web.Response:
    body = {"result": None, "success": False, "errors": list(errors), "messages": []}
    return json_response(body, status=status, headers=headers)


def json_response(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body), status=status, headers=headers, content_type="application/json"
    )


@dataclass(frozen=True)
class Page:
    """Which part of a list is wanted: `page` counts from 1."""

    page: int
    per_page: int

    @property
    def offset(self) -> int:
        return (self.page - 1) * self.per_page

    def info(self, *, count: int, total: int) -> dict[str, int]:
        """`result_info` for this page; `count` is what it holds, `total` what there is."""
        return {
            "page": self.page,
            "per_page": self.per_page,
            "count": count,
            "total_count": total,
            "total_pages": -(-total // self.per_page),
        }

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """This page of a list held in memory; past the end it is empty, as clients count on to stop."""
        return items[self.offset : self.offset + self.per_page]


def page_of(request: web.Request, *, default: int = 20, smallest: int = 1, largest: int = 100) -> Page:
    """`page` and `per_page` from the query. Raises BadRequest."""
    return Page(
        page=integer(request, "page", default=1, smallest=1, largest=2**31),
        per_page=integer(request, "per_page", default=default, smallest=smallest, largest=largest),
    )


def integer(
    request: web.Request, name: str, *, default: int, smallest: int, largest: int, code: int = 6003
) -> int:
    """A whole number from the query. Raises BadRequest."""
    text = request.query.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 12 or not smallest <= int(text) <= largest:
        raise BadRequest(f"{name} must be a whole number between {smallest} and {largest}.", code)
    return int(text)


async def json_body(request: web.Request, *, limit: int = MAX_JSON_BODY, code: int = 6003) -> Any:
    """The body as JSON, whatever content type it claims: clients send text/plain. Raises BadRequest, 413."""
    body = await read_body(request, limit=limit)
    try:
        return await decoded(body)
    except NotJson as exc:
        raise BadRequest("The request body is not valid JSON.", code) from exc


async def json_object(
    request: web.Request, *, limit: int = MAX_JSON_BODY, code: int = 6003
) -> dict[str, Any]:
    body = await json_body(request, limit=limit, code=code)
    if not isinstance(body, dict):
        raise BadRequest("The request body must be a JSON object.", code)
    return body


async def read_body(request: web.Request, *, limit: int) -> bytearray:
    """The whole body, at most `limit` bytes. Raises ApiError 413."""
    body = bytearray()
    async for chunk in request.content.iter_any():
        if len(body) + len(chunk) > limit:
            raise ApiError(413, 10027, f"The request body is larger than {limit} bytes.")
        body += chunk
    return body
