"""The REST API, put together: every room's routers behind one door, and one table from domain errors to problem+json."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError
from ninja.openapi.schema import OpenAPISchema
from ninja.operation import Operation

from hosting.api import ROUTERS as HOSTING
from smcp.common import errors
from smcp.common.problems import CONTENT_TYPE, http_problem, problem
from smcp.common.rest import BodyInvalid, StrictJson
from smcp.common.wording import plain
from tenants.api import ROUTERS as TENANTS
from tenants.auth import Needs
from tenants.door import door

log = logging.getLogger(__name__)

#: The first line that fits decides. A door's whole knowledge of domain errors.
STATUS: Final[tuple[tuple[type[errors.DomainError], int], ...]] = (
    (BodyInvalid, 400),
    (errors.Unauthenticated, 401),
    (errors.Denied, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.Stale, 412),
    (errors.TooLarge, 413),
    (errors.Invalid, 422),
    (errors.TooMany, 429),
    (errors.Unavailable, 503),
)
PROBLEM_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457. `type` is stable: branch on it.",
    "required": ["type", "title", "status", "detail", "instance", "request_id"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "detail"],
                "properties": {"field": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
IDEMPOTENCY_KEY: Final[Mapping[str, Any]] = {
    "in": "header",
    "name": "Idempotency-Key",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "A repetition with the same key gets the first answer instead of a second effect.",
}


class Described(OpenAPISchema):
    """ninja's OpenAPI, plus what every operation of ours has: scopes, problems, and idempotency of POST."""

    def operation_security(self, operation: Operation) -> list[dict[str, Any]] | None:
        needs = [auth for auth in operation.auth_callbacks if isinstance(auth, Needs)]
        for auth in needs:
            self.securitySchemes["ApiKey"] = auth.openapi_security_schema
        # Any one of an operation's scopes opens it, so each is an alternative of its own.
        return [{"ApiKey": [scope]} for auth in needs for scope in sorted(auth.scopes)] or None

    def operation_parameters(self, operation: Operation) -> list[dict[str, Any]]:
        own: list[dict[str, Any]] = super().operation_parameters(operation)
        return [*own, dict(IDEMPOTENCY_KEY)] if "POST" in operation.methods else own

    def responses(self, operation: Operation) -> dict[Any, Any]:
        problems = {"content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
        self.schemas["Problem"] = dict(PROBLEM_SCHEMA)
        return {**super().responses(operation), "default": {"description": "What went wrong.", **problems}}


class Api(NinjaAPI):
    def get_openapi_schema(self, *, path_prefix: str | None = None, path_params: Any = None) -> OpenAPISchema:
        prefix = self.get_root_path(path_params or {}) if path_prefix is None else path_prefix
        return Described(self, prefix)

    def get_openapi_operation_id(self, operation: Operation) -> str:
        return operation.view_func.__name__


def build_api() -> Api:
    """All routers, once."""
    api = Api(
        title="SMCP",
        version="1",
        description="Hosts MCP servers for many tenants. Long work answers 202 with an Operation to follow.",
        docs_url=None,  # no page that loads scripts from elsewhere
        parser=StrictJson(),
    )
    api.add_decorator(door, mode="operation")
    for router in (*TENANTS, *HOSTING):
        api.add_router("", router)
    api.add_exception_handler(errors.DomainError, on_domain_error)
    api.add_exception_handler(ValidationError, on_validation_error)
    api.add_exception_handler(HttpError, on_http_error)
    api.add_exception_handler(Http404, on_not_found)
    api.add_exception_handler(OperationalError, on_database_away)
    api.add_exception_handler(Exception, on_surprise)
    return api


def on_domain_error(request: HttpRequest, error: Any) -> HttpResponse:
    assert isinstance(error, errors.DomainError)
    status = next(status for family, status in STATUS if isinstance(error, family))
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="smcp"'
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    return problem(
        status=status,
        code=error.code,
        title=error.title,
        detail=str(error),
        instance=request.path,
        errors=error.fields,
        headers=headers,
    )


def on_validation_error(request: HttpRequest, error: Any) -> HttpResponse:
    fields: dict[str, str] = {}
    for wrong in error.errors:
        # ("body", "<name of the argument>", "limits", "concurrency") → limits.concurrency
        where = [str(part) for part in wrong["loc"]]
        place = ".".join(where[2:] if where[0] == "body" and len(where) > 2 else where[1:]) or where[0]
        fields.setdefault(place, plain(wrong["type"], wrong.get("ctx", {})))
    return on_domain_error(request, errors.Invalid(fields=fields))


def on_http_error(request: HttpRequest, error: Any) -> HttpResponse:
    if isinstance(error.__cause__, errors.DomainError):  # ninja wraps what our parser raises
        return on_domain_error(request, error.__cause__)
    return http_problem(error.status_code, instance=request.path)


def on_not_found(request: HttpRequest, error: Any) -> HttpResponse:
    return http_problem(404, instance=request.path)


def on_database_away(request: HttpRequest, error: Any) -> HttpResponse:
    """Postgres cannot be reached, or all of its connections are busy."""
    log.error("api.database_away error=%s", type(error).__name__)
    return on_domain_error(request, errors.Unavailable("The database does not answer.", retry_after_s=5))


def on_surprise(request: HttpRequest, error: Any) -> HttpResponse:
    """Nobody thought of this: the log has the traceback, the caller has the id to ask about."""
    log.error("api.surprise", exc_info=error)
    return http_problem(500, instance=request.path)


api = build_api()
