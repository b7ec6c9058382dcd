"""What REST views return, and how it becomes HTTP: status, headers, entity tags, links to the next page."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from ninja import Schema
from ninja.parser import Parser
from pydantic import ConfigDict, Field

from smcp.common.errors import Invalid, Stale
from smcp.common.idempotency import KeptAnswer
from smcp.common.pagination import LIMIT_DEFAULT, LIMIT_MAX, cut_page
from smcp.common.strict_json import NotUsable, parse_json

Out = TypeVar("Out", bound=Schema)
Row = TypeVar("Row", bound=Model)


class BodyInvalid(Invalid):
    code = "body-invalid"
    title = "The body is not JSON we can use"


class Wish(Schema):
    """A body sent to us. Unknown keys are refused: a misspelt policy must not look as if it held."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


class PageOf(Schema, Generic[Out]):
    """One page, newest first. `next` is the address of the following page; null on the last one."""

    items: list[Out]
    next: str | None = None


class PageQuery(Schema):
    """Where in a listing to go on."""

    cursor: str = Field("", max_length=200)
    limit: int = Field(LIMIT_DEFAULT, ge=1, le=LIMIT_MAX)


@dataclass(frozen=True)
class Answer:
    """What a view wants to say. A view that returns a Schema says 200."""

    body: Schema | None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def page_answer(
    request: HttpRequest, rows: QuerySet[Row], query: PageQuery, show: Callable[[Row], Out]
) -> Answer:
    """One page of `rows`, with `next` in the body and as a Link (RFC 8288). Raises CursorInvalid."""
    page = cut_page(rows, listing=request.path, cursor=query.cursor or None, limit=query.limit)
    where = None
    if page.next_cursor:
        other = {key: value for key, value in request.GET.items() if key not in {"cursor", "limit"}}
        where = f"{request.path}?{urlencode({**other, 'cursor': page.next_cursor, 'limit': query.limit})}"
    body = PageOf[Any](items=[show(row) for row in page.rows], next=where)
    return Answer(body, headers={"Link": f'<{where}>; rel="next"'} if where else {})


def etag_of(body: Schema) -> str:
    """A strong entity tag (RFC 9110 section 8.8.3) of what we show of a thing."""
    return f'"{hashlib.sha256(body.model_dump_json().encode()).hexdigest()[:32]}"'


def check_if_match(request: HttpRequest, current: Schema) -> None:
    """`If-Match` is optional; given, it must name what we would show now. Raises Stale."""
    wanted = request.headers.get("If-Match", "*")
    if wanted.strip() != "*" and etag_of(current) not in {tag.strip() for tag in wanted.split(",")}:
        raise Stale("Read it again, then send the change with the new ETag.")


def keep(answer: Answer) -> KeptAnswer:
    body = None if answer.body is None else answer.body.model_dump(mode="json")
    return KeptAnswer(status=answer.status, body=body, headers=dict(answer.headers))


def respond(request: HttpRequest, answer: KeptAnswer) -> HttpResponse:
    """An answer as HTTP. Single things read by GET carry an ETag; `If-None-Match` then gets 304."""
    headers = dict(answer.headers)
    tag = headers.get("ETag")
    if tag and request.method == "GET":
        wanted = {
            part.strip().removeprefix("W/") for part in request.headers.get("If-None-Match", "").split(",")
        }
        if tag in wanted or "*" in wanted:
            return HttpResponse(status=304, headers={"ETag": tag})
    if answer.body is None:
        response = HttpResponse(status=answer.status, headers=headers)
        del response["Content-Type"]
        return response
    content = json.dumps(answer.body, ensure_ascii=False, separators=(",", ":")).encode()
    return HttpResponse(content, status=answer.status, content_type="application/json", headers=headers)


def one(body: Schema, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """A single thing, with its entity tag."""
    return Answer(body, status=status, headers={**(headers or {}), "ETag": etag_of(body)})


class StrictJson(Parser):
    """How bodies are read."""

    def parse_body(self, request: HttpRequest) -> Any:
        """Raises BodyInvalid."""
        try:
            return parse_json(request.body)
        except NotUsable as exc:
            raise BodyInvalid(str(exc)) from exc
