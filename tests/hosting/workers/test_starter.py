"""The catalog's `starter` on the edge, with storage of its own, used by the MCP clients people have."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from hosting.catalog.catalog import get_entry
from hosting.cloudflare.port import ScriptUpload
from tests.clients import (
    MODERN,
    STREAMABLE,
    Answer,
    ClientName,
    Step,
    Transcript,
    call_tool,
    list_resources,
    list_tools,
    read_resource,
    talk,
    text_of,
    tool_names,
)

from .conftest import Account

TOOLS = ["calculator", "echo", "notes_put", "notes_get", "files_put", "files_get", "rows_query"]
ERAS: tuple[ClientName, ...] = ("python-legacy", "python-modern")


class Starter:
    """One deployment of it: its own namespace, bucket and database, unless told to leave one out."""

    def __init__(self, account: Account, *, without: frozenset[str] = frozenset()) -> None:
        self.account = account
        entry, name = get_entry("starter"), f"starter-{secrets.token_hex(6)}"
        cloudflare = account.cloudflare
        bindings: list[Mapping[str, Any]] = [
            {
                "type": "kv_namespace",
                "name": "NOTES",
                "namespace_id": cloudflare.ensure_kv_namespace(name).id,
            },
            {"type": "r2_bucket", "name": "FILES", "bucket_name": cloudflare.ensure_r2_bucket(name).id},
            {"type": "d1", "name": "ROWS", "id": cloudflare.ensure_d1_database(name).id},
        ]
        self.script = name
        cloudflare.put_script(
            name,
            ScriptUpload(
                main_module=entry.main_module,
                modules=entry.modules,
                compatibility_date=entry.compatibility_date,
                bindings=[binding for binding in bindings if binding["name"] not in without],
            ),
        )

    async def talk(self, client: ClientName, *steps: Step) -> Transcript:
        async with self.account.front(self.script) as url:
            return await talk(client, f"{url}/mcp", None, steps)

    async def answers(self, client: ClientName, *steps: Step) -> list[Answer]:
        return list((await self.talk(client, *steps)).answers)

    async def call(self, client: ClientName, tool: str, /, **arguments: Any) -> Answer:
        (answer,) = await self.answers(client, call_tool(tool, **arguments))
        return answer

    def request(self, method: str, path: str = "/mcp", **rest: Any) -> httpx.Response:
        headers = {**self.account.headers(self.script), **rest.pop("headers", {})}
        return httpx.request(method, f"{self.account.url}{path}", headers=headers, timeout=30, **rest)


@pytest.fixture(scope="module")
def starter(account: Account) -> Starter:
    return Starter(account)


def failed(answer: Answer, *words: str) -> bool:
    return bool(answer.get("isError")) and all(word in text_of(answer) for word in words)


# ── Every client ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.acceptance("S3.2", "S3.19", "S3.21", "S3.22")
@pytest.mark.parametrize("client", STREAMABLE)
async def test_every_client_lists_calls_and_reads(starter: Starter, client: ClientName) -> None:
    tools, three, division, resources, info = await starter.answers(
        client,
        list_tools(),
        call_tool("calculator", operation="add", a=1, b=2),
        call_tool("calculator", operation="divide", a=1, b=0),
        list_resources(),
        read_resource("system://info"),
    )
    assert tool_names(tools) == TOOLS
    assert three["structuredContent"] == {"result": 3}
    assert failed(division, "Division by zero")
    assert [resource["uri"] for resource in resources["resources"]] == ["system://info", "config://server"]
    assert json.loads(text_of(info))["server"]["name"] == "starter"


@pytest.mark.parametrize(
    ("client", "revision"),
    [("python-legacy", "2025-11-25"), ("python-modern", MODERN), ("client-modern", MODERN)],
)
async def test_a_client_gets_the_revision_of_its_era(
    starter: Starter, client: ClientName, revision: str
) -> None:
    talked = await starter.talk(client)
    assert (talked.protocol_version, talked.server) == (revision, "starter")


@pytest.mark.parametrize("revision", ["2025-03-26", "2025-06-18", "2025-11-25"])
def test_each_handshake_revision_is_accepted_and_opens_no_session(starter: Starter, revision: str) -> None:
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": revision,
            "capabilities": {},
            "clientInfo": {"name": "t", "version": "1"},
        },
    }
    answer = starter.request("POST", json=body, headers={"accept": "application/json, text/event-stream"})
    assert answer.status_code == 200
    assert f'"protocolVersion":"{revision}"' in answer.text
    assert "mcp-session-id" not in answer.headers


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_without_sessions_there_is_no_stream_to_get_and_nothing_to_delete(
    starter: Starter, method: str
) -> None:
    assert starter.request(method, headers={"accept": "text/event-stream"}).status_code == 405


def test_outside_mcp_there_is_only_a_liveness_answer(starter: Starter) -> None:
    assert starter.request("GET", "/health").json() == {"status": "ok"}
    assert starter.request("GET", "/").status_code == 404
    assert starter.request("POST", "/mcp/other", json={}).status_code == 404


# ── Every tool, in both eras ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.acceptance("S3.19")
@pytest.mark.parametrize("client", ERAS)
@pytest.mark.parametrize(
    ("operation", "a", "b", "result"),
    [
        ("add", 0.5, 0.25, 0.75),
        ("subtract", 1, 3, -2),
        ("multiply", -4, 2.5, -10),
        ("divide", 1, 4, 0.25),
    ],
)
async def test_calculator_calculates(
    starter: Starter, client: ClientName, operation: str, a: float, b: float, result: float
) -> None:
    answer = await starter.call(client, "calculator", operation=operation, a=a, b=b)
    assert answer["structuredContent"] == {"result": result}
    assert float(text_of(answer)) == result


@pytest.mark.acceptance("S3.19")
@pytest.mark.parametrize("client", ERAS)
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"operation": "divide", "a": 1, "b": 0}, "Division by zero"),
        ({"operation": "multiply", "a": 1e308, "b": 10}, "too large"),
        ({"operation": "power", "a": 1, "b": 2}, "operation"),
        ({"operation": "add", "a": "1", "b": 2}, "a:"),
        ({"operation": "add", "a": 1}, "b:"),
        ({}, "operation"),
    ],
)
async def test_calculator_says_what_is_wrong(
    starter: Starter, client: ClientName, arguments: dict[str, Any], why: str
) -> None:
    assert failed(await starter.call(client, "calculator", **arguments), why)


@pytest.mark.acceptance("S3.20")
@pytest.mark.parametrize("client", ERAS)
@pytest.mark.parametrize("message", ["hello", "", "zwei\nZeilen ✓", '{"json": "quoted"}', "x" * 100_000])
async def test_echo_returns_the_message_unchanged(starter: Starter, client: ClientName, message: str) -> None:
    assert text_of(await starter.call(client, "echo", message=message)) == message


@pytest.mark.acceptance("S4.9")
@pytest.mark.parametrize("client", ERAS)
async def test_notes_are_kept_replaced_and_missed(starter: Starter, client: ClientName) -> None:
    key = f"note/{secrets.token_hex(4)} ä"
    missing, put, first, again, second = await starter.answers(
        client,
        call_tool("notes_get", key=key),
        call_tool("notes_put", key=key, value="één"),
        call_tool("notes_get", key=key),
        call_tool("notes_put", key=key, value="two", ttl_s=3600),
        call_tool("notes_get", key=key),
    )
    assert failed(missing, "no note")
    assert put["structuredContent"] == {"key": key, "bytes": 5}
    assert first["structuredContent"] == {"key": key, "value": "één"}
    assert not again.get("isError")
    assert text_of(second) == "two"


@pytest.mark.parametrize("client", ERAS)
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"key": "", "value": "v"}, "key"),
        ({"key": "..", "value": "v"}, "must not be"),
        ({"key": "ä" * 257, "value": "v"}, "512 bytes"),
        ({"key": "k", "value": "v" * 65537}, "65536 bytes"),
        ({"key": "k", "value": "v", "ttl_s": 59}, "ttl_s"),
        ({"key": "k"}, "value"),
    ],
)
async def test_notes_put_refuses_what_kv_would_not_keep(
    starter: Starter, client: ClientName, arguments: dict[str, Any], why: str
) -> None:
    assert failed(await starter.call(client, "notes_put", **arguments), why)


@pytest.mark.acceptance("S4.10")
@pytest.mark.parametrize("client", ERAS)
async def test_files_are_kept_as_text_and_as_bytes(starter: Starter, client: ClientName) -> None:
    name, raw = f"folder/{secrets.token_hex(4)} ä.bin", bytes(range(256))
    encoded = base64.b64encode(raw).decode()
    missing, put, text, binary, got = await starter.answers(
        client,
        call_tool("files_get", name=name),
        call_tool("files_put", name=name, content="grün", content_type="text/markdown"),
        call_tool("files_get", name=name),
        call_tool("files_put", name=name, content=encoded, encoding="base64"),
        call_tool("files_get", name=name),
    )
    assert failed(missing, "no file")
    assert put["structuredContent"]["bytes"] == 5
    assert text["structuredContent"] == {
        "name": name,
        "bytes": 5,
        "content_type": "text/markdown",
        "encoding": "utf-8",
        "content": "grün",
    }
    assert binary["structuredContent"]["bytes"] == 256
    assert got["structuredContent"]["encoding"] == "base64"
    assert base64.b64decode(got["structuredContent"]["content"]) == raw


@pytest.mark.parametrize("client", ERAS)
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"name": "", "content": "x"}, "name"),
        ({"name": "ä" * 513, "content": "x"}, "1024 bytes"),
        ({"name": "f", "content": "not base64!", "encoding": "base64"}, "base64"),
        ({"name": "f", "content": "x" * (1024 * 1024 + 1)}, "1048576 bytes"),
        ({"name": "f", "content": "x", "content_type": "text/plain\r\nx: y"}, "media type"),
        ({"name": "f", "content": "x", "encoding": "rot13"}, "encoding"),
    ],
)
async def test_files_put_refuses_what_it_cannot_keep(
    starter: Starter, client: ClientName, arguments: dict[str, Any], why: str
) -> None:
    assert failed(await starter.call(client, "files_put", **arguments), why)


@pytest.mark.acceptance("S4.11")
@pytest.mark.parametrize("client", ERAS)
async def test_rows_are_queried_with_parameters_and_bounded(starter: Starter, client: ClientName) -> None:
    numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 1000) SELECT x FROM n"
    some, ordered, many = await starter.answers(
        client,
        call_tool(
            "rows_query", sql="SELECT name, moons FROM planets WHERE moons BETWEEN ? AND ?", params=[1, 2]
        ),
        call_tool("rows_query", sql="SELECT name FROM planets ORDER BY diameter_km DESC LIMIT 2;"),
        call_tool("rows_query", sql=numbers),
    )
    assert some["structuredContent"] == {
        "rows": [{"name": "Earth", "moons": 1}, {"name": "Mars", "moons": 2}],
        "row_count": 2,
        "truncated": False,
    }
    assert [row["name"] for row in ordered["structuredContent"]["rows"]] == ["Jupiter", "Saturn"]
    assert many["structuredContent"]["row_count"] == 200
    assert many["structuredContent"]["truncated"] is True


@pytest.mark.acceptance("S2.33")
@pytest.mark.parametrize("client", ERAS)
async def test_rows_cannot_be_changed(starter: Starter, client: ClientName) -> None:
    attempts = [
        "DELETE FROM planets",
        "INSERT INTO planets VALUES (9, 'Pluto', 2377, 5)",
        "DROP TABLE planets",
        "PRAGMA user_version = 7",
        "SELECT 1; DELETE FROM planets",
        "WITH gone AS (SELECT 1) DELETE FROM planets",
        "/* SELECT */ DELETE FROM planets",
        "SELECT 1) ; DELETE FROM planets; SELECT (1",
    ]
    *refusals, count = await starter.answers(
        client,
        *(call_tool("rows_query", sql=sql) for sql in attempts),
        call_tool("rows_query", sql="SELECT count(*) AS n FROM planets"),
    )
    assert all(failed(refusal, "Refused") for refusal in refusals)
    assert count["structuredContent"]["rows"] == [{"n": 8}]


@pytest.mark.parametrize("client", ERAS)
async def test_an_error_of_the_database_comes_back_as_text(starter: Starter, client: ClientName) -> None:
    column, parameter = await starter.answers(
        client,
        call_tool("rows_query", sql="SELECT weight FROM planets"),
        call_tool("rows_query", sql="SELECT ? AS x", params=[]),
    )
    assert failed(column, "no such column", "weight")
    assert failed(parameter, "The database answered")


# ── Resources, and what does not exist ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.acceptance("S3.21", "S3.22")
@pytest.mark.parametrize("client", ERAS)
async def test_resources_tell_of_the_system_and_its_set_up(starter: Starter, client: ClientName) -> None:
    info, config = map(
        json.loads,
        map(
            text_of,
            await starter.answers(client, read_resource("system://info"), read_resource("config://server")),
        ),
    )
    assert info["runtime"] == "Cloudflare-Workers"
    assert "2025-11-25" in info["protocol_versions"]
    assert {binding["name"]: binding["is_bound"] for binding in config["bindings"]} == {
        "NOTES": True,
        "FILES": True,
        "ROWS": True,
    }
    assert "id" not in config["bindings"][0]


@pytest.mark.parametrize("client", ERAS)
async def test_what_does_not_exist_is_a_protocol_error(starter: Starter, client: ClientName) -> None:
    tool, resource = await starter.answers(client, call_tool("nothing"), read_resource("system://nothing"))
    assert tool["error"]["code"] == -32602
    assert resource["error"]["code"] in {-32602, -32002}


async def test_a_deployment_without_a_binding_still_serves_the_rest(account: Account) -> None:
    starter = Starter(account, without=frozenset({"NOTES", "FILES", "ROWS"}))
    tools, note, file, rows, three = await starter.answers(
        "python-modern",
        list_tools(),
        call_tool("notes_get", key="k"),
        call_tool("files_get", name="f"),
        call_tool("rows_query", sql="SELECT 1"),
        call_tool("calculator", operation="add", a=1, b=2),
    )
    assert tool_names(tools) == TOOLS
    assert failed(note, "NOTES")
    assert failed(file, "FILES")
    assert failed(rows, "ROWS")
    assert text_of(three) == "3"


@pytest.mark.acceptance("S4.5")
async def test_two_deployments_share_nothing(starter: Starter, account: Account) -> None:
    other = Starter(account)
    await starter.answers(
        "python-modern",
        call_tool("notes_put", key="mine", value="secret"),
        call_tool("files_put", name="mine", content="secret"),
    )
    note, file = await other.answers(
        "python-modern", call_tool("notes_get", key="mine"), call_tool("files_get", name="mine")
    )
    assert failed(note, "no note")
    assert failed(file, "no file")
