"""Scripts in a dispatch namespace. Source: https://developers.cloudflare.com/api/resources/workers_for_platforms/."""

from __future__ import annotations

from aiohttp import web

from edge.api import script_parts as parts
from edge.container import Edge
from edge.envelope import BadRequest, page_of, success
from edge.routes import ACCOUNT, Route, account_of
from edge.scripts.deploy import Deployer, runtime_of
from edge.scripts.errors import NamespaceNotFound
from edge.scripts.model import Script

SCRIPTS = ACCOUNT + "/workers/dispatch/namespaces/{namespace}/scripts"
SCRIPT = SCRIPTS + "/{script}"
MAX_PAGE = 1000


async def get(request: web.Request, edge: Edge) -> web.Response:
    script = await parts.get_script(request, edge)
    return success(
        {
            "created_on": script.created_at,
            "modified_on": script.modified_at,
            "dispatch_namespace": script.namespace,
            "script": parts.script_view(script),
        }
    )


async def list_scripts(request: web.Request, edge: Edge) -> web.Response:
    """All of the namespace, or those the `tags` filter leaves. Without `per_page` in one answer, as Cloudflare gives them."""
    scripts = await _matching(request, edge)
    views = [
        {**parts.script_view(script), "dispatch_namespace": script.namespace, "script_name": script.name}
        for script in scripts
    ]
    page = page_of(request, default=max(1, len(views)), largest=max(MAX_PAGE, len(views)))
    shown = page.of(views)
    return success(list(shown), result_info=page.info(count=len(shown), total=len(views)))


async def delete_many(request: web.Request, edge: Edge) -> web.Response:
    """Delete every script the `tags` filter leaves. Without a filter nothing is deleted."""
    if not request.query.get("tags"):
        raise BadRequest("Deleting scripts in bulk needs a tags filter.")
    scripts = await _matching(request, edge)
    await Deployer(edge).delete([script.key for script in scripts])
    return success([{"id": script.name} for script in scripts])


async def delete(request: web.Request, edge: Edge) -> web.Response:
    script = await parts.get_script(request, edge)
    await Deployer(edge).delete([script.key])
    return success(None)


async def _matching(request: web.Request, edge: Edge) -> list[Script]:
    account, namespace = account_of(request), request.match_info["namespace"]
    store = runtime_of(edge).store
    if await store.find_namespace(account, namespace) is None:
        raise NamespaceNotFound
    wanted = parse_filter(request.query.get("tags", ""))
    return [
        script
        for script in await store.list_scripts(account, namespace)
        if all((tag in script.tags) is present for tag, present in wanted.items())
    ]


def parse_filter(text: str) -> dict[str, bool]:
    """`tag:yes,other:no` as {tag: must it have it}. Raises BadRequest."""
    wanted: dict[str, bool] = {}
    for entry in filter(None, text.split(",")):
        tag, _, answer = entry.rpartition(":")
        if not tag or answer not in ("yes", "no"):
            raise BadRequest("The tags filter is a list of <tag>:yes or <tag>:no.")
        wanted[tag] = answer == "yes"
    return wanted


ROUTES = [
    Route("GET", SCRIPTS, "scripts.list", list_scripts),
    Route("DELETE", SCRIPTS, "scripts.tags.delete_many", delete_many),
    Route("PUT", SCRIPT, "scripts.put", parts.put),
    Route("GET", SCRIPT, "scripts.get", get),
    Route("DELETE", SCRIPT, "scripts.delete", delete),
    Route("GET", SCRIPT + "/settings", "scripts.settings", parts.get_settings),
    Route("PATCH", SCRIPT + "/settings", "scripts.settings", parts.patch_settings),
    Route("GET", SCRIPT + "/bindings", "scripts.bindings", parts.get_bindings),
    Route("GET", SCRIPT + "/content", "scripts.content", parts.content),
    Route("GET", SCRIPT + "/secrets", "scripts.secrets", parts.list_secrets),
    Route("PUT", SCRIPT + "/secrets", "scripts.secrets", parts.put_secret),
    Route("PATCH", SCRIPT + "/secrets-bulk", "scripts.secrets", parts.bulk_secrets),
    Route("GET", SCRIPT + "/secrets/{secret}", "scripts.secrets", parts.get_secret),
    Route("DELETE", SCRIPT + "/secrets/{secret}", "scripts.secrets", parts.delete_secret),
    Route("GET", SCRIPT + "/tags", "scripts.tags", parts.get_tags),
    Route("PUT", SCRIPT + "/tags", "scripts.tags.put", parts.put_tags),
    Route("PUT", SCRIPT + "/tags/{tag}", "scripts.tags.put", parts.put_tag),
    Route("DELETE", SCRIPT + "/tags/{tag}", "scripts.tags.delete", parts.delete_tag),
]
