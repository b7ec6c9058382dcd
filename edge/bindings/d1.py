"""What a Worker's `env.DB` says: `POST /query` and `POST /execute`, errors as `{success: false, error}` with status 200.

A list sent to /query is a batch, one transaction; a list sent to /execute is `exec()`: lines run one after the other until one
fails. `x-cf-d1-session-commit-token` is the session's bookmark: every read here sees every write, so any bookmark does.
Source: workerd's src/cloudflare/internal/d1-api.ts.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from edge.container import Edge
from edge.envelope import ApiError, json_body
from edge.pieces import JsonWriter, send_json
from edge.storage.d1 import MAX_STATEMENTS, InvalidRequest, TooManyStatements, parsed_batch, split
from edge.storage.d1_engine import MAX_RESULT, Meta, Shape, Statement

BOOKMARK_HEADER = "x-cf-d1-session-commit-token"
MAX_BODY = 32 * 1024 * 1024


async def answer(request: web.Request, edge: Edge, account: str, database_id: str) -> web.StreamResponse:
    try:
        pieces = await _answer(request, edge, account, database_id)
    except ApiError as exc:
        pieces = [msgspec.json.encode(_failure(exc))]
    return await send_json(request, pieces, headers={BOOKMARK_HEADER: _bookmark(database_id)})


async def _answer(request: web.Request, edge: Edge, account: str, database_id: str) -> list[bytes]:
    if request.method != "POST" or request.path not in ("/query", "/execute"):
        raise InvalidRequest(f"D1 has no {request.method} {request.path}")
    try:
        shape = Shape(request.query.get("resultsFormat", Shape.OBJECTS.value))
    except ValueError as exc:
        formats = ", ".join(shape.value for shape in Shape)
        raise InvalidRequest(f"resultsFormat must be one of {formats}") from exc
    body = await json_body(request, limit=MAX_BODY, code=7400)
    if isinstance(body, list) and request.path == "/execute":
        return await _exec(edge, account, database_id, [_parts(item) for item in body])
    queries = [_parts(item) for item in body] if isinstance(body, list) else [_parts(body)]
    # Each prepared statement of a batch gives one result, the last one if it holds several.
    statements = [
        replace(one, is_told=one is many[-1])
        for many in await _parsed(edge, account, database_id, queries)
        for one in many
    ]
    answer = await edge.storage.d1.query(account, database_id, statements, shape)
    return [b"[", *answer.told, b"]"] if isinstance(body, list) else answer.told


async def _exec(edge: Edge, account: str, database_id: str, lines: list[tuple[Any, Any]]) -> list[bytes]:
    if len(lines) > MAX_STATEMENTS:
        raise TooManyStatements
    writer = JsonWriter(MAX_RESULT)
    writer.raw(b"[")
    for number, (line, _) in enumerate(lines):
        if number:
            writer.raw(b",")
        try:
            writer.value({"success": True, "meta": await _exec_line(edge, account, database_id, line)})
        except ApiError as exc:
            writer.value(_failure(exc))
            break
    writer.raw(b"]")
    return writer.finish()


async def _exec_line(edge: Edge, account: str, database_id: str, line: Any) -> Meta | dict[str, Any]:
    """What D1 says of all that the line did: its last statement's account, with the time they all took."""
    sql = line if isinstance(line, str) else ""
    store = edge.storage.d1
    statements = await store.take_apart(account, database_id, len(sql), partial(_split, sql))
    metas = (await store.query(account, database_id, statements, Shape.NONE)).metas
    duration_ms = sum(meta.duration for meta in metas)
    return msgspec.structs.replace(metas[-1], duration=duration_ms) if metas else {"duration": 0}


def _split(sql: str) -> list[Statement]:
    return [Statement(one, is_told=False) for one in split(sql)]


async def _parsed(
    edge: Edge, account: str, database_id: str, queries: list[tuple[Any, Any]]
) -> list[list[Statement]]:
    length = sum(len(sql) for sql, _ in queries if isinstance(sql, str))
    return await edge.storage.d1.take_apart(account, database_id, length, partial(parsed_batch, queries))


def _parts(body: Any) -> tuple[Any, Any]:
    if not isinstance(body, dict):
        raise InvalidRequest("a query is an object with sql and params")
    return body.get("sql"), body.get("params")


def _failure(error: ApiError) -> dict[str, Any]:
    return {"success": False, "error": error.message, "meta": {}}


def _bookmark(database_id: str) -> str:
    return f"{time.time_ns() // 1_000_000:016x}-00000000-00000000-{database_id.replace('-', '')}"
