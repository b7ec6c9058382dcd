"""What a Worker's `env.DB` says: `POST /query` and `POST /execute`, errors as `{success: false, error}` with status 200.

A list sent to /query is a batch, one transaction; a list sent to /execute is `exec()`: lines run one after the other until one
fails. `x-cf-d1-session-commit-token` is the session's bookmark: every read here sees every write, so any bookmark does.
Source: workerd's src/cloudflare/internal/d1-api.ts.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from aiohttp import web

from edge.container import Edge
from edge.envelope import ApiError, json_body, json_response
from edge.storage.d1 import InvalidRequest, parsed_statements
from edge.storage.d1_engine import Result, Statement
from edge.storage.d1_statements import split_statements

BOOKMARK_HEADER = "x-cf-d1-session-commit-token"
FORMATS = ("ARRAY_OF_OBJECTS", "ROWS_AND_COLUMNS", "NONE")
MAX_BODY = 32 * 1024 * 1024


async def answer(request: web.Request, edge: Edge, account: str, database_id: str) -> web.StreamResponse:
    try:
        body = await _answer(request, edge, account, database_id)
    except ApiError as exc:
        body = _failure(exc)
    return json_response(body, headers={BOOKMARK_HEADER: _bookmark(database_id)})


async def _answer(request: web.Request, edge: Edge, account: str, database_id: str) -> Any:
    if request.method != "POST" or request.path not in ("/query", "/execute"):
        raise InvalidRequest(f"D1 has no {request.method} {request.path}")
    shape = request.query.get("resultsFormat", FORMATS[0])
    if shape not in FORMATS:
        raise InvalidRequest(f"resultsFormat must be one of {', '.join(FORMATS)}")
    body = await json_body(request, limit=MAX_BODY, code=7400)
    if isinstance(body, list) and request.path == "/execute":
        return await _exec(edge, account, database_id, [_parts(item) for item in body])
    if isinstance(body, list):
        # Each prepared statement of the batch gives one result, the last one if it holds several.
        batch = await _parsed(edge, account, database_id, [_parts(item) for item in body])
        results = await edge.storage.d1.query(account, database_id, [one for many in batch for one in many])
        ends, last = [], -1
        for statements in batch:
            last += len(statements)
            ends.append(last)
        return [_success(results[end], shape) for end in ends]
    [statements] = await _parsed(edge, account, database_id, [_parts(body)])
    results = await edge.storage.d1.query(account, database_id, statements)
    return _success(results[-1], shape)


async def _exec(edge: Edge, account: str, database_id: str, lines: list[tuple[Any, Any]]) -> list[Any]:
    answers: list[Any] = []
    for line, _ in lines:
        sql = line if isinstance(line, str) else ""
        try:
            statements = await edge.storage.d1.take_apart(
                account, database_id, len(sql), partial(_split, sql)
            )
            results = await edge.storage.d1.query(account, database_id, statements)
        except ApiError as exc:
            return [*answers, _failure(exc)]
        duration = sum(result.meta["duration"] for result in results)
        answers.append(
            {
                "success": True,
                "meta": {**results[-1].meta, "duration": duration} if results else {"duration": 0},
            }
        )
    return answers


def _split(sql: str) -> list[Statement]:
    return [Statement(one) for one in split_statements(sql)]


async def _parsed(
    edge: Edge, account: str, database_id: str, queries: list[tuple[Any, Any]]
) -> list[list[Statement]]:
    length = sum(len(sql) for sql, _ in queries if isinstance(sql, str))
    return await edge.storage.d1.take_apart(
        account, database_id, length, lambda: [parsed_statements(*query) for query in queries]
    )


def _parts(body: Any) -> tuple[Any, Any]:
    if not isinstance(body, dict):
        raise InvalidRequest("a query is an object with sql and params")
    return body.get("sql"), body.get("params")


def _success(result: Result, shape: str) -> dict[str, Any]:
    answer: dict[str, Any] = {"success": True, "meta": result.meta}
    if shape == "ROWS_AND_COLUMNS":
        answer["results"] = {"columns": result.columns, "rows": result.rows}
    elif shape == "ARRAY_OF_OBJECTS":
        answer["results"] = result.objects()
    return answer


def _failure(error: ApiError) -> dict[str, Any]:
    return {"success": False, "error": error.message, "meta": {}}


def _bookmark(database_id: str) -> str:
    return f"{time.time_ns() // 1_000_000:016x}-00000000-00000000-{database_id.replace('-', '')}"
