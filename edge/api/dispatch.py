"""Dispatch namespaces. Source: https://developers.cloudflare.com/api/resources/workers_for_platforms/subresources/dispatch/."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from edge.container import Edge
from edge.envelope import ApiError, BadRequest, json_object, page_of, success
from edge.routes import ACCOUNT, Route, account_of
from edge.scripts.deploy import runtime_of
from edge.scripts.errors import NamespaceNotFound
from edge.scripts.store import DispatchNamespace, NamespaceExists

NAMESPACES = ACCOUNT + "/workers/dispatch/namespaces"
NAMESPACE = NAMESPACES + "/{namespace}"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}")
ALREADY_EXISTS, NOT_EMPTY = 100120, 100121  # Cloudflare's own numbers for these two are not documented


async def create(request: web.Request, edge: Edge) -> web.Response:
    name = (await json_object(request)).get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise BadRequest(
            "A dispatch namespace needs a name of 1 to 63 letters, digits, underscores and dashes."
        )
    try:
        return success(_view(await runtime_of(edge).store.create_namespace(account_of(request), name)))
    except NamespaceExists as exc:
        message = "workers.api.error.dispatch_namespace_already_exists"
        raise ApiError(409, ALREADY_EXISTS, message) from exc


async def list_namespaces(request: web.Request, edge: Edge) -> web.Response:
    """All in one answer, unless `per_page` asks for a page."""
    views = [
        _view(namespace) for namespace in await runtime_of(edge).store.list_namespaces(account_of(request))
    ]
    page = page_of(request, default=max(1, len(views)), largest=max(1000, len(views)))
    shown = page.of(views)
    return success(list(shown), result_info=page.info(count=len(shown), total=len(views)))


async def get(request: web.Request, edge: Edge) -> web.Response:
    return success(_view(await _get(request, edge)))


async def delete(request: web.Request, edge: Edge) -> web.Response:
    namespace = await _get(request, edge)
    if namespace.script_count:
        raise ApiError(400, NOT_EMPTY, "The dispatch namespace still holds scripts.")
    await runtime_of(edge).store.delete_namespace(namespace.account, namespace.name)
    return success(None)


async def _get(request: web.Request, edge: Edge) -> DispatchNamespace:
    """Raises NamespaceNotFound."""
    store = runtime_of(edge).store
    namespace = await store.find_namespace(account_of(request), request.match_info["namespace"])
    if namespace is None:
        raise NamespaceNotFound
    return namespace


def _view(namespace: DispatchNamespace) -> dict[str, Any]:
    return {
        "namespace_id": namespace.id,
        "namespace_name": namespace.name,
        "created_on": namespace.created_at,
        "created_by": namespace.account,
        "modified_on": namespace.modified_at,
        "modified_by": namespace.account,
        "script_count": namespace.script_count,
        "trusted_workers": False,
    }


ROUTES = [
    Route("POST", NAMESPACES, "dispatch.create", create),
    Route("GET", NAMESPACES, "dispatch.list", list_namespaces),
    Route("GET", NAMESPACE, "dispatch.get", get),
    Route("DELETE", NAMESPACE, "dispatch.delete", delete),
]
