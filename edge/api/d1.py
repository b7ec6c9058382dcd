"""D1 over the API. Source: https://developers.cloudflare.com/api/resources/d1/."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from edge.container import Edge
from edge.envelope import json_object, page_of, success
from edge.pieces import send_success
from edge.routes import ACCOUNT, Route, account_of
from edge.storage.d1 import READ_AT_ONCE, Database, InvalidRequest, parsed_batch, parsed_statements
from edge.storage.d1_engine import Shape, Statement

MAX_BATCH = 500


async def create(request: web.Request, edge: Edge) -> web.Response:
    body = await json_object(request, code=7400)
    database = await edge.storage.d1.create_database(
        account_of(request), body.get("name"), body.get("primary_location_hint")
    )
    return success(await _database(edge, account_of(request), database))


async def list_databases(request: web.Request, edge: Edge) -> web.Response:
    page = page_of(request, default=100, largest=10_000)
    account = account_of(request)
    databases, total = await edge.storage.d1.list_databases(account, page, name=request.query.get("name", ""))
    info = page.info(count=len(databases), total=total)
    return success([_listed(database) for database in databases], result_info=info)


async def get(request: web.Request, edge: Edge) -> web.Response:
    account = account_of(request)
    return success(
        await _database(edge, account, await edge.storage.d1.find_database(account, _database_id(request)))
    )


async def delete(request: web.Request, edge: Edge) -> web.Response:
    await edge.storage.d1.delete_database(account_of(request), _database_id(request))
    return success(None)


async def query(request: web.Request, edge: Edge) -> web.StreamResponse:
    return await _run(request, edge, Shape.OBJECTS)


async def raw(request: web.Request, edge: Edge) -> web.StreamResponse:
    return await _run(request, edge, Shape.ARRAYS)


async def _run(request: web.Request, edge: Edge, shape: Shape) -> web.StreamResponse:
    body = await json_object(request, code=7400)
    account, database_id, store = account_of(request), _database_id(request), edge.storage.d1
    await store.get_database(account, database_id)
    length = request.content_length or READ_AT_ONCE + 1
    statements = await store.take_apart(account, database_id, length, lambda: _statements(body))
    answer = await store.query(account, database_id, statements, shape)
    return await send_success(request, [b"[", *answer.told, b"]"])


def _statements(body: dict[str, Any]) -> list[Statement]:
    if "batch" not in body:
        return parsed_statements(body.get("sql"), body.get("params"))
    batch = body["batch"]
    if not isinstance(batch, list) or not 1 <= len(batch) <= MAX_BATCH:
        raise InvalidRequest(f"The request is malformed: batch must be a list of 1 to {MAX_BATCH} queries.")
    if "sql" in body:
        raise InvalidRequest("The request is malformed: it has both sql and batch.")
    for item in batch:
        if not isinstance(item, dict):
            raise InvalidRequest("The request is malformed: each query of a batch is an object.")
    return [
        one for many in parsed_batch((item.get("sql"), item.get("params")) for item in batch) for one in many
    ]


def _database_id(request: web.Request) -> str:
    return request.match_info["database_id"]


def _listed(database: Database) -> dict[str, Any]:
    return {
        "uuid": database.id,
        "name": database.name,
        "created_at": database.created_at,
        "version": "production",
        "jurisdiction": None,
    }


async def _database(edge: Edge, account: str, database: Database) -> dict[str, Any]:
    size, tables = await edge.storage.d1.size(account, database.id)
    return {
        **_listed(database),
        "num_tables": tables,
        "file_size": size,
        "running_in_region": (database.location or "weur").upper(),
        "created_in_region": (database.location or "weur").upper(),
        "read_replication": {"mode": "disabled"},
    }


DATABASES = ACCOUNT + "/d1/database"
DATABASE = DATABASES + "/{database_id}"

ROUTES: Sequence[Route] = (
    Route("POST", DATABASES, "d1.create", create),
    Route("GET", DATABASES, "d1.list", list_databases),
    Route("GET", DATABASE, "d1.get", get),
    Route("DELETE", DATABASE, "d1.delete", delete),
    Route("POST", DATABASE + "/query", "d1.query", query),
    Route("POST", DATABASE + "/raw", "d1.query", raw),
)
