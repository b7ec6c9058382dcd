"""What a Worker's `env.KV` says: one HTTP request per call, the error as the status line's reason.

`GET|PUT|DELETE /<key>?urlencoded=true`, metadata as JSON in `CF-KV-Metadata`; `GET /?key_count_limit&prefix&cursor` lists;
`POST /bulk/get`. Source: workerd's src/workerd/api/kv.c++.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from aiohttp import web

from edge.api.kv import read_bulk
from edge.container import Edge
from edge.envelope import ApiError, json_object, json_response
from edge.pieces import send_json
from edge.storage.kv import Entry
from edge.storage.kv_rules import (
    MAX_LIST,
    InvalidEntry,
    InvalidKey,
    NoSuchKey,
    checked_expiry,
    checked_metadata,
)

METADATA_HEADER = "CF-KV-Metadata"


async def answer(request: web.Request, edge: Edge, account: str, namespace_id: str) -> web.StreamResponse:
    try:
        return await _answer(request, edge, account, namespace_id)
    except ApiError as exc:
        # workerd shows a Worker the status and the reason, not the body.
        return web.Response(status=exc.status, reason=exc.message.replace("\n", " "), text=exc.message)


async def _answer(request: web.Request, edge: Edge, account: str, namespace_id: str) -> web.StreamResponse:
    path = request.rel_url.raw_path.lstrip("/")
    match request.method, path:
        case "GET", "":
            return await _list(request, edge, account, namespace_id)
        case "POST", "bulk/get":
            body = await json_object(request)
            values = await read_bulk(edge, account, namespace_id, body, with_expiry=False)
            return await send_json(request, values)
        case "GET", _:
            return await _get(request, edge, account, namespace_id, _key(path))
        case "PUT", _:
            await edge.storage.kv.put(
                account,
                namespace_id,
                _key(path),
                request.content.iter_any(),
                metadata=checked_metadata(request.headers.get(METADATA_HEADER)),
                expires_at=checked_expiry(
                    request.query.get("expiration"), request.query.get("expiration_ttl")
                ),
            )
            return web.Response()
        case "DELETE", _:
            await edge.storage.kv.delete_keys(account, namespace_id, [_key(path)])
            return web.Response()
    raise ApiError(405, 10012, "KV has no such operation")


async def _get(
    request: web.Request, edge: Edge, account: str, namespace_id: str, key: str
) -> web.StreamResponse:
    try:
        async with edge.storage.kv.open(account, namespace_id, key) as reading:
            response = web.StreamResponse()
            if reading.entry.metadata is not None:
                response.headers[METADATA_HEADER] = reading.entry.metadata
            response.content_length = reading.entry.size
            await response.prepare(request)
            async for chunk in reading.chunks:
                await response.write(chunk)
            await response.write_eof()
            return response
    except NoSuchKey:
        return web.Response(status=404)


async def _list(request: web.Request, edge: Edge, account: str, namespace_id: str) -> web.Response:
    limit = request.query.get("key_count_limit", str(MAX_LIST))
    if not limit.isdigit() or not 1 <= int(limit) <= MAX_LIST:
        raise InvalidEntry(
            f"Invalid key_count_limit of {limit}. Please specify an integer from 1 to {MAX_LIST}."
        )
    listed = await edge.storage.kv.list_keys(
        account,
        namespace_id,
        prefix=request.query.get("prefix", ""),
        cursor=request.query.get("cursor", ""),
        limit=int(limit),
    )
    body: dict[str, Any] = {
        "keys": [_listed(name, entry) for name, entry in listed.keys],
        "list_complete": not listed.cursor,
    }
    if listed.cursor:
        body["cursor"] = listed.cursor
    return json_response(body)


def _listed(name: str, entry: Entry) -> dict[str, Any]:
    key: dict[str, Any] = {"name": name}
    if entry.expires_at is not None:
        key["expiration"] = entry.expires_at
    if entry.metadata is not None:
        key["metadata"] = entry.metadata  # as text: workerd parses it
    return key


def _key(path: str) -> str:
    try:
        return unquote(path, errors="strict")
    except UnicodeDecodeError as exc:
        raise InvalidKey("a key is valid UTF-8") from exc
