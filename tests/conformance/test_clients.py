"""Real clients × real servers, through the gateway: every client lists, calls, hears progress and is asked, where both sides can.

The servers are those that tenants have: Workers on Cloudflare's `agents` package, bundled by its wrangler, and the reference server of the
protocol's authors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from hosting.dataplane.contract import Dispatch
from tests.clients import (
    CLIENTS,
    ClientFailed,
    ClientName,
    Step,
    call_tool,
    list_tools,
    talk,
    text_of,
    tool_names,
)
from tests.conformance.stage import Eras, Stage, node_server
from tests.parts import free_port

# What a client says that will have the modern era only, and whom the server declines: the revision it would settle on.
DECLINED: Final = "(?i)settled on 2025-11-25|version|unsupported"
ASKS_NOBODY: Final = frozenset({"inspector-legacy", "inspector-modern"})


@dataclass(frozen=True, kw_only=True)
class Server:
    """What a server calls the three things every one of them can do, and what its question to the user is."""

    eras: Eras
    adding: Step
    counting: Step
    progress: tuple[float, ...]
    asking: Step
    question: str
    has_sessions: bool


REFERENCE: Final = "node_modules/@modelcontextprotocol/server-everything/dist/index.js"
OURS: Final = (call_tool("add", a=2, b=40), call_tool("count", to=3), call_tool("ask"))
LONG: Final = call_tool("trigger-long-running-operation", duration=0.3, steps=3)
SERVERS: Final = {
    "handler": Server(
        eras="both",
        adding=OURS[0],
        counting=OURS[1],
        progress=(1, 2, 3),
        asking=OURS[2],
        question="Who are you?",
        has_sessions=False,
    ),
    "agent": Server(
        eras="legacy",
        adding=OURS[0],
        counting=OURS[1],
        progress=(1, 2, 3),
        asking=OURS[2],
        question="Who are you?",
        has_sessions=True,
    ),
    "reference": Server(
        eras="legacy",
        adding=call_tool("get-sum", a=2, b=40),
        counting=LONG,
        progress=(1, 2, 3),
        asking=call_tool("trigger-elicitation-request"),
        question="Please provide inputs for the following fields:",
        has_sessions=True,
    ),
}


@pytest.fixture(scope="module")
def key(stage: Stage) -> str:
    return stage.key()


@pytest.fixture(scope="module")
def endpoints(stage: Stage) -> Iterator[dict[str, str]]:
    """Where each of SERVERS is served."""

    def publish(name: str, script: str, **more: Any) -> str:
        server = SERVERS[name]
        return stage.publish(
            name, script, server.eras, has_sessions=server.has_sessions, access=("api_key",), **more
        )

    served = {name: publish(name, stage.upload(name)) for name in ("handler", "agent")}
    port = free_port()
    with node_server(REFERENCE, "streamableHttp", port=port):
        here = Dispatch(url=f"http://127.0.0.1:{port}", audience="nobody")
        served["reference"] = publish("reference", "none", dispatch=here)
        yield served


@pytest.mark.acceptance("S0.2", "S0.18", "S4.1", "S4.2")
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", SERVERS)
async def test_a_client_gets_all_that_both_sides_can(
    endpoints: dict[str, str], key: str, name: str, client: ClientName
) -> None:
    server = SERVERS[name]
    is_modern = client.endswith("-modern")
    if is_modern and server.eras == "legacy":
        with pytest.raises(ClientFailed, match=DECLINED):
            await talk(client, endpoints[name], key, [list_tools()])
        return
    await assert_all_is_there(endpoints[name], key, server, client)


async def assert_all_is_there(url: str, key: str, server: Server, client: ClientName) -> None:
    is_asked = client not in ASKS_NOBODY
    steps = [list_tools(), server.adding, server.counting, *([server.asking] if is_asked else [])]
    told = await talk(client, url, key, steps)
    assert server.adding.params["name"] in tool_names(told.answers[0])
    assert "42" in text_of(told.answers[1])
    assert "3" in text_of(told.answers[2])
    if is_asked:
        # The 2.x SDKs count the rounds of a question as progress of their own, after the server's.
        assert tuple(told.progress[: len(server.progress)]) == server.progress
        assert told.asked == [server.question]
        assert "Ada" in str(told.answers[3])
