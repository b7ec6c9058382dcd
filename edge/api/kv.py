"""KV over the API: namespaces, values, bulk. Source: https://developers.cloudflare.com/api/resources/kv/."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import msgspec
from aiohttp import BodyPartReader, web

from edge.container import Edge
from edge.envelope import ApiError, integer, json_body, json_object, page_of, success
from edge.pieces import JsonWriter, send_success
from edge.reading import NotJson, decode
from edge.routes import ACCOUNT, Route, account_of, raw_tail
from edge.storage.blobs import in_file_thread
from edge.storage.kv import Entry, Namespace
from edge.storage.kv_rules import (
    MAX_BULK,
    MAX_BULK_GET,
    MAX_METADATA,
    InvalidEntry,
    InvalidKey,
    checked_expiry,
    checked_key,
    checked_metadata,
    checked_puts,
)

MAX_BULK_BODY = 100 * 1024 * 1024
MAX_BULK_GET_BYTES = 25 * 1024 * 1024
MAX_BULK_GET_JSON = 8 * MAX_BULK_GET_BYTES
CHUNK = 256 * 1024


async def create(request: web.Request, edge: Edge) -> web.Response:
    body = await json_object(request)
    namespace = await edge.storage.kv.create_namespace(account_of(request), body.get("title"))
    return success(_namespace(namespace))


async def list_namespaces(request: web.Request, edge: Edge) -> web.Response:
    page = page_of(request, default=20, largest=1000)
    namespaces, total = await edge.storage.kv.list_namespaces(
        account_of(request),
        page,
        order=request.query.get("order", "id"),
        is_descending=request.query.get("direction") == "desc",
    )
    info = page.info(count=len(namespaces), total=total)
    return success([_namespace(namespace) for namespace in namespaces], result_info=info)


async def get(request: web.Request, edge: Edge) -> web.Response:
    return success(
        _namespace(await edge.storage.kv.get_namespace(account_of(request), _namespace_id(request)))
    )


async def rename(request: web.Request, edge: Edge) -> web.Response:
    body = await json_object(request)
    namespace = await edge.storage.kv.rename_namespace(
        account_of(request), _namespace_id(request), body.get("title")
    )
    return success(_namespace(namespace))


async def delete(request: web.Request, edge: Edge) -> web.Response:
    await edge.storage.kv.delete_namespace(account_of(request), _namespace_id(request))
    return success(None)


async def put_value(request: web.Request, edge: Edge) -> web.Response:
    account, namespace_id, key = account_of(request), _namespace_id(request), raw_tail(request, "/values/")
    expires_at = checked_expiry(request.query.get("expiration"), request.query.get("expiration_ttl"))
    if request.content_type != "multipart/form-data":
        await edge.storage.kv.put(
            account, namespace_id, key, request.content.iter_any(), expires_at=expires_at
        )
        return success(None)
    # The metadata may come after the value, and both are written at once or not at all.
    async with edge.storage.kv.writing(account, namespace_id, key) as write:
        metadata = None
        try:
            async for part in await request.multipart():
                if not isinstance(part, BodyPartReader):
                    raise InvalidEntry("parts must not be nested")
                if part.name == "value":
                    await write.receive(_chunks(part))
                elif part.name == "metadata":
                    metadata = checked_metadata(await _small(part, MAX_METADATA))
        except ValueError as exc:
            raise InvalidEntry("the multipart body is malformed") from exc
        await write.commit(metadata=metadata, expires_at=expires_at)
    return success(None)


async def get_value(request: web.Request, edge: Edge) -> web.StreamResponse:
    key = raw_tail(request, "/values/")
    async with edge.storage.kv.open(account_of(request), _namespace_id(request), key) as reading:
        response = web.StreamResponse(headers={"content-type": "application/octet-stream"})
        if reading.entry.expires_at is not None:
            response.headers["expiration"] = str(reading.entry.expires_at)
        response.content_length = reading.entry.size
        await response.prepare(request)
        async for chunk in reading.chunks:
            await response.write(chunk)
        await response.write_eof()
        return response


async def delete_value(request: web.Request, edge: Edge) -> web.Response:
    key = raw_tail(request, "/values/")
    await edge.storage.kv.delete_keys(account_of(request), _namespace_id(request), [key])
    return success(None)


async def get_metadata(request: web.Request, edge: Edge) -> web.Response:
    key = raw_tail(request, "/metadata/")
    entry = await edge.storage.kv.metadata(account_of(request), _namespace_id(request), key)
    return success(_decoded(entry.metadata))


async def list_keys(request: web.Request, edge: Edge) -> web.Response:
    listed = await edge.storage.kv.list_keys(
        account_of(request),
        _namespace_id(request),
        prefix=request.query.get("prefix", ""),
        cursor=request.query.get("cursor", ""),
        limit=integer(request, "limit", default=1000, smallest=10, largest=1000, code=10012),
    )
    info = {"count": len(listed.keys), "cursor": listed.cursor}
    return success([_key(name, entry) for name, entry in listed.keys], result_info=info)


async def put_bulk(request: web.Request, edge: Edge) -> web.Response:
    body = await json_body(request, limit=MAX_BULK_BODY)
    puts = await in_file_thread(partial(checked_puts, body))
    await edge.storage.kv.put_bulk(account_of(request), _namespace_id(request), puts)
    return success({"successful_key_count": len(puts), "unsuccessful_keys": []})


async def delete_bulk(request: web.Request, edge: Edge) -> web.Response:
    keys = await json_body(request)
    if not isinstance(keys, list) or len(keys) > MAX_BULK:
        raise InvalidEntry(f"a bulk delete is a list of at most {MAX_BULK} keys")
    await edge.storage.kv.delete_keys(account_of(request), _namespace_id(request), keys)
    return success({"successful_key_count": len(keys), "unsuccessful_keys": []})


async def get_bulk(request: web.Request, edge: Edge) -> web.StreamResponse:
    body = await json_object(request)
    values = await read_bulk(edge, account_of(request), _namespace_id(request), body, with_expiry=True)
    return await send_success(request, [b'{"values":', *values, b"}"])


async def read_bulk(
    edge: Edge, account: str, namespace_id: str, body: dict[str, Any], *, with_expiry: bool
) -> list[bytes]:
    """Many keys at once: `{keys, type: text|json, withMetadata}`. An object of values, in pieces; a key that is not there is null."""
    keys, kind = body.get("keys"), body.get("type", "text")
    if not isinstance(keys, list) or not 1 <= len(keys) <= MAX_BULK_GET:
        raise InvalidKey(f"a bulk get is a list of 1 to {MAX_BULK_GET} keys")
    if kind not in ("text", "json"):
        raise InvalidEntry('"type" must be "text" or "json"')
    writer = JsonWriter(MAX_BULK_GET_JSON)
    names = {checked_key(key): key for key in keys}.values()
    size = 0
    for number, name in enumerate(names):
        found = await edge.storage.kv.find(account, namespace_id, name)
        size += len(found[1]) if found else 0
        if size > MAX_BULK_GET_BYTES:
            raise ApiError(
                413, 10047, f"Total size of request exceeds the limit of {MAX_BULK_GET_BYTES} bytes"
            )
        writer.raw(b"," if number else b"{")
        writer.value(name)
        writer.raw(b":")
        if found is None:
            writer.raw(b"null")
            continue
        entry, value = found
        tell = partial(_tell, writer, value, kind)
        if body.get("withMetadata"):
            writer.raw(b'{"value":')
            await in_file_thread(tell)
            rest = {"metadata": _decoded(entry.metadata)}
            if with_expiry and entry.expires_at is not None:
                rest["expiration"] = entry.expires_at
            writer.raw(b"," + msgspec.json.encode(rest)[1:])
        else:
            await in_file_thread(tell)
    writer.raw(b"}")
    return writer.finish()


def _tell(writer: JsonWriter, value: bytes, kind: str) -> None:
    try:
        if kind == "json":
            decode(value)
            writer.raw(value)
        else:
            writer.utf8(value)
    except (NotJson, UnicodeDecodeError) as exc:
        raise InvalidEntry(f"at least one of the requested keys holds a value that is not {kind}") from exc


def _namespace_id(request: web.Request) -> str:
    return request.match_info["namespace_id"]


def _namespace(namespace: Namespace) -> dict[str, Any]:
    return {"id": namespace.id, "title": namespace.title, "supports_url_encoding": True}


def _key(name: str, entry: Entry) -> dict[str, Any]:
    key: dict[str, Any] = {"name": name}
    if entry.expires_at is not None:
        key["expiration"] = entry.expires_at
    if entry.metadata is not None:
        key["metadata"] = _decoded(entry.metadata)
    return key


def _decoded(metadata: str | None) -> Any:
    return None if metadata is None else msgspec.Raw(metadata.encode())


async def _chunks(part: BodyPartReader) -> AsyncIterator[bytes]:
    while chunk := await part.read_chunk(CHUNK):
        yield chunk


async def _small(part: BodyPartReader, limit: int) -> bytes:
    body = b""
    async for chunk in _chunks(part):
        body += chunk
        if len(body) > limit:
            raise InvalidEntry(f"Metadata length exceeds limit of {limit}.")
    return body


NAMESPACES = ACCOUNT + "/storage/kv/namespaces"
NAMESPACE = NAMESPACES + "/{namespace_id}"

ROUTES: Sequence[Route] = (
    Route("POST", NAMESPACES, "kv.create", create),
    Route("GET", NAMESPACES, "kv.list", list_namespaces),
    Route("GET", NAMESPACE, "kv.get", get),
    Route("PUT", NAMESPACE, "kv.rename", rename),
    Route("DELETE", NAMESPACE, "kv.delete", delete),
    Route("GET", NAMESPACE + "/keys", "kv.values.list", list_keys),
    Route("PUT", NAMESPACE + "/bulk", "kv.values.bulk_put", put_bulk),
    Route("DELETE", NAMESPACE + "/bulk", "kv.values.bulk_delete", delete_bulk),
    Route("POST", NAMESPACE + "/bulk/delete", "kv.values.bulk_delete", delete_bulk),
    Route("POST", NAMESPACE + "/bulk/get", "kv.values.bulk_get", get_bulk),
    Route("PUT", NAMESPACE + "/values/{key:.+}", "kv.values.put", put_value),
    Route("GET", NAMESPACE + "/values/{key:.+}", "kv.values.get", get_value),
    Route("DELETE", NAMESPACE + "/values/{key:.+}", "kv.values.delete", delete_value),
    Route("GET", NAMESPACE + "/metadata/{key:.+}", "kv.values.metadata", get_metadata),
)
