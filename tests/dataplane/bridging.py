"""A modern client of few words before a legacy-only server, for the tests of the bridge between them."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.dataplane.harness import MODERN, Caller, GatewayProcess, World, events_of, request

ALL: dict[str, Any] = {"elicitation": {"form": {}, "url": {}}, "sampling": {"tools": {}}, "roots": {}}
META = "io.modelcontextprotocol/"


def modern_body(
    method: str,
    params: dict[str, Any] | None = None,
    *,
    capabilities: dict[str, Any] | None = None,
    token: Any = None,
    level: str = "",
    meta: dict[str, Any] | None = None,
    request_id: Any = 1,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The body, and the headers that go with it."""
    given: dict[str, Any] = {
        f"{META}protocolVersion": MODERN,
        f"{META}clientCapabilities": ALL if capabilities is None else capabilities,
        **(meta or {}),
    }
    if token is not None:
        given["progressToken"] = token
    if level:
        given[f"{META}logLevel"] = level
    params = {**(params or {}), "_meta": given}
    headers = {"mcp_protocol_version": MODERN, "mcp_method": method}
    name = params.get("uri") if method == "resources/read" else params.get("name")
    if name is not None:
        headers["mcp_name"] = str(name)
    return request(method, params, request_id=request_id), headers


def script(*steps: dict[str, Any]) -> dict[str, Any]:
    """The params of a call that takes these steps."""
    return {"name": "script", "arguments": {"steps": list(steps)}}


def ask(request_id: Any, method: str = "elicitation/create", **params: Any) -> dict[str, Any]:
    return {"ask": [request_id, method, params]}


def form(message: str = "who?") -> dict[str, Any]:
    return {"message": message, "requestedSchema": {"type": "object", "properties": {}}}


class Bridged:
    """One client at one Environment."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller

    def at(self, world: World, node: GatewayProcess) -> Bridged:
        """The same client, come to another node."""
        caller = world.at(self.caller.url.replace(world.gateway.url, node.url))
        caller.headers = self.caller.headers
        return Bridged(caller)

    def send(self, method: str, params: dict[str, Any] | None = None, **more: Any) -> httpx.Response:
        headers = more.pop("headers", {})
        body, sent = modern_body(method, params, **more)
        return self.caller.send(body=body, **{**sent, **headers})

    def stream(self, method: str, params: dict[str, Any] | None = None, **more: Any) -> Any:
        body, sent = modern_body(method, params, **more)
        return self.caller.stream(body=body, **sent)

    def ask(self, method: str, params: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """The whole answer, the last message of whatever came."""
        return messages_of(self.send(method, params, **more))[-1]

    def result(self, method: str, params: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        told = self.ask(method, params, **more)
        assert "result" in told, told
        return dict(told["result"])

    def call(self, *steps: dict[str, Any], **more: Any) -> dict[str, Any]:
        return self.result("tools/call", script(*steps), **more)

    def retry(
        self, required: dict[str, Any], responses: dict[str, Any], *steps: dict[str, Any], **more: Any
    ) -> dict[str, Any]:
        """The whole answer to the call's next round."""
        return self.ask("tools/call", again(required, responses, *steps), **more)


def again(required: dict[str, Any], responses: dict[str, Any], *steps: dict[str, Any]) -> dict[str, Any]:
    """The params of the next round of a call."""
    return {**script(*steps), "requestState": required["requestState"], "inputResponses": responses}


def messages_of(response: httpx.Response) -> list[dict[str, Any]]:
    if response.headers["content-type"] == "text/event-stream":
        return events_of(response.text)
    return [response.json()]


def told_by(result: dict[str, Any]) -> dict[str, Any]:
    """What the server tells of a call: its params and the answers it got."""
    return dict(json.loads(result["content"][0]["text"]))


def bridged(world: World, slug: str, script_name: str = "legacy", **more: Any) -> Bridged:
    """A fresh client at a fresh Environment that bridges."""
    access = more.pop("access", ("api_key",))
    target = world.target(script_name, eras=("legacy",), issues_sessions=True)
    route = world.server(slug, target, modern_clients="bridge", access=access, **more)
    return Bridged(world.at(world.url(route), world.key() if "api_key" in access else None))


def requests(world: World, method: str = "") -> list[dict[str, Any]]:
    """What the server was sent, in order: the messages of POSTs."""
    found = [entry["message"] for entry in world.standin.seen if entry["method"] == "POST"]
    return [message for message in found if not method or message.get("method") == method]


def verbs(world: World) -> list[str]:
    """Every request the server got: methods of messages, and HTTP methods of what is none."""
    return [
        entry["message"].get("method", "answer") if entry["method"] == "POST" else entry["method"]
        for entry in world.standin.seen
    ]
