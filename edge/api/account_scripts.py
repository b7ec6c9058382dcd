"""An account's own Workers, and the little of services, subdomains and deployments that clients ask for around them.

Source: https://developers.cloudflare.com/api/resources/workers/; what `wrangler` needs was recorded from it.
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from edge.api import script_parts as parts
from edge.container import Edge
from edge.envelope import ApiError, json_body, json_object, page_of, success
from edge.routes import ACCOUNT, Route, account_of
from edge.scripts.deploy import Deployer, runtime_of
from edge.scripts.errors import NotFound
from edge.scripts.model import Script

SCRIPTS = ACCOUNT + "/workers/scripts"
SCRIPT = SCRIPTS + "/{script}"
SERVICE = ACCOUNT + "/workers/services/{script}"
WORKER = ACCOUNT + "/workers/workers/{script}"
SUBDOMAIN = ACCOUNT + "/workers/subdomain"


async def list_scripts(request: web.Request, edge: Edge) -> web.Response:
    """All in one answer, unless `per_page` asks for a page."""
    scripts = await runtime_of(edge).store.list_scripts(account_of(request), "")
    page = page_of(request, default=max(1, len(scripts)), largest=max(1000, len(scripts)))
    views = [parts.script_view(script) for script in page.of(scripts)]
    return success(views, result_info=page.info(count=len(views), total=len(scripts)))


async def delete(request: web.Request, edge: Edge) -> web.Response:
    script = await parts.get_script(request, edge)
    await Deployer(edge).delete([script.key])
    return success({"id": script.name})


async def get_service(request: web.Request, edge: Edge) -> web.Response:
    script = await _service(request, edge)
    environment = {
        "environment": "production",
        "created_on": script.created_at,
        "modified_on": script.modified_at,
        "script": parts.script_view(script),
    }
    return success(
        {
            "id": script.name,
            "default_environment": environment,
            "environments": [environment],
            "created_on": script.created_at,
            "modified_on": script.modified_at,
        }
    )


async def delete_service(request: web.Request, edge: Edge) -> web.Response:
    script = await _service(request, edge)
    await Deployer(edge).delete([script.key])
    return success(None)


async def get_worker(request: web.Request, edge: Edge) -> web.Response:
    script = await parts.get_script(request, edge)
    return success(
        {
            "id": script.tag,
            "name": script.name,
            "created_on": script.created_at,
            "updated_on": script.modified_at,
            "deployed_on": script.version.created_at,
            "tags": list(script.tags),
            "logpush": script.version.settings.get("logpush", False),
            "observability": script.version.settings.get("observability"),
            "subdomain": _subdomain_view(script),
            "references": {
                "dispatch_namespace_outbounds": [], "domains": [], "durable_objects": [], "queues": [], "workers": [],
            },
            "tail_consumers": [],
        }
    )  # fmt: skip


async def get_account_subdomain(request: web.Request, _edge: Edge) -> web.Response:
    """The label between a script's name and `workers.localhost`."""
    return success({"subdomain": account_of(request)[:8]})


async def put_account_subdomain(request: web.Request, edge: Edge) -> web.Response:
    wanted = (await json_object(request)).get("subdomain")
    if wanted != account_of(request)[:8]:
        raise ApiError(409, 10036, "The subdomain of an account cannot be chosen here.")
    return await get_account_subdomain(request, edge)


async def get_subdomain(request: web.Request, edge: Edge) -> web.Response:
    return success(_subdomain_view(await parts.get_script(request, edge)))


async def put_subdomain(request: web.Request, edge: Edge) -> web.Response:
    body = {"enabled": False} if request.method == "DELETE" else await json_object(request)
    is_enabled = body.get("enabled")
    if not isinstance(is_enabled, bool):
        raise ApiError(400, 10021, "enabled must be true or false.")
    script = await Deployer(edge).annotate(
        parts.key_of(request),
        lambda current: msgspec.structs.replace(current, is_on_subdomain=is_enabled),
    )
    return success(_subdomain_view(script))


async def get_schedules(request: web.Request, edge: Edge) -> web.Response:
    await parts.get_script(request, edge)
    return success({"schedules": []})


async def put_schedules(request: web.Request, edge: Edge) -> web.Response:
    await parts.get_script(request, edge)
    if await json_body(request) not in ([], {"schedules": []}):
        raise ApiError(400, 10100, "Cron triggers are not available here.")
    return success({"schedules": []})


async def list_deployments(request: web.Request, edge: Edge) -> web.Response:
    """The one deployment there ever is: the present version, all of the traffic. Empty for a script that is not there."""
    script = await runtime_of(edge).store.find(parts.key_of(request))
    if script is None:
        return success({"deployments": []})
    version = script.version
    deployment = {
        "id": version.id,
        "source": "api",
        "strategy": "percentage",
        "author_email": "",
        "annotations": version.annotations,
        "created_on": version.created_at,
        "versions": [{"version_id": version.id, "percentage": 100}],
    }
    return success({"deployments": [deployment]})


async def list_object_namespaces(request: web.Request, edge: Edge) -> web.Response:
    scripts = await runtime_of(edge).store.list_scripts(account_of(request), "")
    views = [
        {
            "id": item.key,
            "name": f"{script.name}_{item.name}",
            "script": script.name,
            "class": item.name,
            "use_sqlite": item.is_sql,
        }
        for script in scripts
        for item in script.classes
    ]
    page = page_of(request, largest=1000)
    shown = page.of(views)
    return success(list(shown), result_info=page.info(count=len(shown), total=len(views)))


async def _service(request: web.Request, edge: Edge) -> Script:
    try:
        return await parts.get_script(request, edge)
    except NotFound as exc:
        raise NotFound(as_service=True) from exc


def _subdomain_view(script: Script) -> dict[str, Any]:
    return {"enabled": script.is_on_subdomain, "previews_enabled": False}


ROUTES = [
    Route("GET", SCRIPTS, "account_scripts.list", list_scripts),
    Route("PUT", SCRIPT, "account_scripts.put", parts.put),
    Route("GET", SCRIPT, "account_scripts.get", parts.content),
    Route("DELETE", SCRIPT, "account_scripts.delete", delete),
    Route("GET", SCRIPT + "/settings", "account_scripts.settings", parts.get_settings),
    Route("PATCH", SCRIPT + "/settings", "account_scripts.settings", parts.patch_settings),
    Route("GET", SCRIPT + "/script-settings", "account_scripts.settings", parts.get_settings),
    Route("PATCH", SCRIPT + "/script-settings", "account_scripts.settings", parts.patch_settings),
    Route("GET", SCRIPT + "/content/v2", "account_scripts.content", parts.content),
    Route("GET", SCRIPT + "/secrets", "account_scripts.secrets", parts.list_secrets),
    Route("PUT", SCRIPT + "/secrets", "account_scripts.secrets", parts.put_secret),
    Route("PATCH", SCRIPT + "/secrets-bulk", "account_scripts.secrets", parts.bulk_secrets),
    Route("GET", SCRIPT + "/secrets/{secret}", "account_scripts.secrets", parts.get_secret),
    Route("DELETE", SCRIPT + "/secrets/{secret}", "account_scripts.secrets", parts.delete_secret),
    Route("GET", SCRIPT + "/subdomain", "account_scripts.subdomain", get_subdomain),
    Route("POST", SCRIPT + "/subdomain", "account_scripts.subdomain", put_subdomain),
    Route("DELETE", SCRIPT + "/subdomain", "account_scripts.subdomain", put_subdomain),
    Route("GET", SCRIPT + "/schedules", "account_scripts.schedules", get_schedules),
    Route("PUT", SCRIPT + "/schedules", "account_scripts.schedules", put_schedules),
    Route("GET", SCRIPT + "/deployments", "account_scripts.deployments", list_deployments),
    Route("GET", SERVICE, "account_scripts.services", get_service),
    Route("DELETE", SERVICE, "account_scripts.services", delete_service),
    Route("GET", WORKER, "account_scripts.workers", get_worker),
    Route("GET", SUBDOMAIN, "account_scripts.subdomain", get_account_subdomain),
    Route("PUT", SUBDOMAIN, "account_scripts.subdomain", put_account_subdomain),
    Route(
        "GET",
        ACCOUNT + "/workers/durable_objects/namespaces",
        "account_scripts.object_namespaces",
        list_object_namespaces,
    ),
]
