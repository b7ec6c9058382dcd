"""What a Worker's `env.BUCKET` says: JSON beside bytes on one HTTP request.

`GET` carries its request in the header `CF-R2-Request`; `PUT` carries it as the first `CF-R2-Metadata-Size` bytes of the body, the
value following. Answers to `GET` are built the same way; errors travel in the header `CF-R2-Error`. Numbers of 64 bits may be texts.
Sources: workerd's src/workerd/api/r2-rpc.c++ and r2-api.capnp.
"""

from __future__ import annotations

import base64
import binascii
from asyncio import IncompleteReadError
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from edge.container import Edge
from edge.envelope import ApiError
from edge.reading import NotJson, decoded
from edge.storage import r2_multipart
from edge.storage.r2_rules import (
    MAX_LIST,
    Attributes,
    Conditions,
    Etag,
    InvalidArgument,
    PreconditionFailed,
    Range,
    Stored,
    checked_attributes,
    range_from_header,
)

REQUEST_HEADER = "CF-R2-Request"
SIZE_HEADER = "CF-R2-Metadata-Size"
ERROR_HEADER = "CF-R2-Error"
MAX_REQUEST = 2 * 1024 * 1024
CHECKSUMS = {"md5": "0", "sha1": "1", "sha256": "2", "sha384": "3", "sha512": "4"}
UNSET = 2**64 - 1
INCLUDE_HTTP, INCLUDE_CUSTOM = 0, 1


async def answer(request: web.Request, edge: Edge, account: str, bucket: str) -> web.StreamResponse:
    try:
        if request.method == "GET":
            return await _read(
                request,
                edge,
                account,
                bucket,
                await _decoded(request.headers.get(REQUEST_HEADER, "").encode()),
            )
        if request.method == "PUT":
            return await _write(request, edge, account, bucket, await _leading_json(request))
        raise InvalidArgument(f"R2 has no {request.method}")
    except ApiError as exc:
        error = {"version": 1, "v4code": exc.code, "message": exc.message}
        headers = {ERROR_HEADER: msgspec.json.encode(error).decode()}
        stored = exc.stored if isinstance(exc, PreconditionFailed) else None
        body = b"" if stored is None else msgspec.json.encode(_object(stored))
        if stored is not None:
            headers[SIZE_HEADER] = str(len(body))
        return web.Response(status=exc.status, headers=headers, body=body)


async def _read(
    request: web.Request, edge: Edge, account: str, bucket: str, asked: dict[str, Any]
) -> web.StreamResponse:
    store = edge.storage.r2
    match asked.get("method"):
        case "head":
            return _framed(_object(await store.head(account, bucket, _text(asked, "object"))))
        case "get":
            conditions = _conditions(asked.get("onlyIf"))
            key, wanted = _text(asked, "object"), _range(asked)
            async with store.open(account, bucket, key, only_if=conditions, wanted=wanted) as reading:
                meta = _object(reading.stored)
                if reading.range is not None:
                    meta["range"] = {"offset": reading.range[0], "length": reading.range[1]}
                head = msgspec.json.encode(meta)
                response = web.StreamResponse(headers={SIZE_HEADER: str(len(head))})
                response.content_length = len(head) + reading.length
                await response.prepare(request)
                await response.write(head)
                async for chunk in reading.chunks:
                    await response.write(chunk)
                await response.write_eof()
                return response
        case "list":
            listing = await store.list_objects(
                account,
                bucket,
                prefix=_text(asked, "prefix", ""),
                delimiter=_text(asked, "delimiter", ""),
                cursor=_text(asked, "cursor", ""),
                start_after=_text(asked, "startAfter", ""),
                limit=_number(asked, "limit", MAX_LIST),
            )
            include = asked.get("include", [INCLUDE_HTTP, INCLUDE_CUSTOM])
            body = {
                "objects": [_object(stored, include) for stored in listing.objects],
                "truncated": bool(listing.cursor),
                "delimitedPrefixes": listing.prefixes,
            }
            if listing.cursor:
                body["cursor"] = listing.cursor
            return _framed(body)
    raise InvalidArgument(f"R2 has no {asked.get('method')!r} to read")


async def _write(
    request: web.Request, edge: Edge, account: str, bucket: str, asked: dict[str, Any]
) -> web.StreamResponse:
    store, content = edge.storage.r2, request.content.iter_any()
    match asked.get("method"):
        case "put":
            stored = await store.put(
                account,
                bucket,
                _text(asked, "object"),
                content,
                _attributes(asked),
                only_if=_conditions(asked.get("onlyIf")),
                digest=_digest(asked),
            )
            return _json(_object(stored))
        case "delete":
            keys = asked["objects"] if "objects" in asked else [asked.get("object")]
            if not isinstance(keys, list):
                raise InvalidArgument("objects must be a list")
            await store.delete(account, bucket, keys)
            return _json({})
        case "createMultipartUpload":
            key, attributes = _text(asked, "object"), _attributes(asked)
            return _json(
                {"uploadId": await r2_multipart.create_upload(store, account, bucket, key, attributes)}
            )
        case "uploadPart":
            key, upload_id = _text(asked, "object"), _text(asked, "uploadId")
            number = _number(asked, "partNumber", 0)
            etag = await r2_multipart.upload_part(store, account, bucket, key, upload_id, number, content)
            return _json({"etag": etag})
        case "completeMultipartUpload":
            key, upload_id = _text(asked, "object"), _text(asked, "uploadId")
            parts = [(_number(part, "part", 0), _text(part, "etag")) for part in _objects(asked, "parts")]
            stored = await r2_multipart.complete_upload(store, account, bucket, key, upload_id, parts)
            return _json(_object(stored))
        case "abortMultipartUpload":
            key, upload_id = _text(asked, "object"), _text(asked, "uploadId")
            await r2_multipart.abort_upload(store, account, bucket, key, upload_id)
            return _json({})
    raise InvalidArgument(f"R2 has no {asked.get('method')!r} to write")


def _object(stored: Stored, include: Any = (INCLUDE_HTTP, INCLUDE_CUSTOM)) -> dict[str, Any]:
    """An object as workerd's R2HeadResponse."""
    head: dict[str, Any] = {
        "name": stored.key,
        "version": stored.version,
        "size": stored.size,
        "etag": stored.etag,
        "uploaded": stored.uploaded_ms,
        "storageClass": stored.storage_class,
        "checksums": {CHECKSUMS[name]: value for name, value in stored.checksums.items()},
    }
    if INCLUDE_HTTP in include:
        head["httpFields"] = stored.http
    if INCLUDE_CUSTOM in include:
        head["customFields"] = [{"k": name, "v": value} for name, value in stored.custom.items()]
    return head


def _attributes(asked: Mapping[str, Any]) -> Attributes:
    custom = {_text(record, "k"): _text(record, "v", "") for record in _objects(asked, "customFields")}
    return checked_attributes(asked.get("httpFields", {}), custom, asked.get("storageClass"))


def _conditions(asked: Any) -> Conditions:
    if asked is None:
        return Conditions()
    if not isinstance(asked, dict):
        raise InvalidArgument("onlyIf must be an object")
    return Conditions(
        matches=_etags(asked, "etagMatches"),
        does_not_match=_etags(asked, "etagDoesNotMatch"),
        before_ms=_number(asked, "uploadedBefore", None),
        after_ms=_number(asked, "uploadedAfter", None),
        in_whole_seconds=bool(asked.get("secondsGranularity")),
    )


def _etags(asked: Mapping[str, Any], name: str) -> list[Etag] | None:
    if name not in asked:
        return None
    return [
        Etag(
            None if tag.get("type") == "wildcard" else _text(tag, "value"), is_weak=tag.get("type") == "weak"
        )
        for tag in _objects(asked, name)
    ]


def _range(asked: Mapping[str, Any]) -> Range | None:
    if "rangeHeader" in asked:
        return range_from_header(_text(asked, "rangeHeader"))
    wanted = asked.get("range")
    if wanted is None:
        return None
    if not isinstance(wanted, dict):
        raise InvalidArgument("range must be an object")
    return Range(*(_number(wanted, name, None) for name in ("offset", "length", "suffix")))


def _digest(asked: Mapping[str, Any]) -> tuple[str, bytes] | None:
    for name in CHECKSUMS:
        if name in asked:
            text = _text(asked, name)
            try:
                return name, base64.b64decode(text, validate=True) if name == "md5" else bytes.fromhex(text)
            except (binascii.Error, ValueError) as exc:
                raise InvalidArgument(f"{name} is not a checksum") from exc
    return None


def _text(asked: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = asked.get(name, default)
    if not isinstance(value, str):
        raise InvalidArgument(f"{name} must be a text")
    return value


def _number(asked: Mapping[str, Any], name: str, default: Any) -> Any:
    value = asked.get(name, default)
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    if value is default or value == UNSET:
        return default
    if type(value) is not int:
        raise InvalidArgument(f"{name} must be a whole number")
    return value


def _objects(asked: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    value = asked.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidArgument(f"{name} must be a list of objects")
    return value


async def _decoded(text: bytes) -> dict[str, Any]:
    try:
        asked = await decoded(text)
    except NotJson as exc:
        raise InvalidArgument("Metadata missing or invalid") from exc
    if not isinstance(asked, dict):
        raise InvalidArgument("Metadata missing or invalid")
    return asked


async def _leading_json(request: web.Request) -> dict[str, Any]:
    size = request.headers.get(SIZE_HEADER, "")
    if not size.isdigit() or int(size) > MAX_REQUEST:
        raise InvalidArgument("Metadata missing or invalid")
    try:
        return await _decoded(await request.content.readexactly(int(size)))
    except IncompleteReadError as exc:
        raise InvalidArgument("Metadata missing or invalid") from exc


def _framed(body: dict[str, Any]) -> web.Response:
    encoded = msgspec.json.encode(body)
    return web.Response(body=encoded, headers={SIZE_HEADER: str(len(encoded))})


def _json(body: dict[str, Any]) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")
