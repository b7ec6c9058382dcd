"""R2 over the API: buckets, and objects as `wrangler r2 object` uses them.

Source: https://developers.cloudflare.com/api/resources/r2/. Listing is by cursor, never by page.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any

from aiohttp import web

from edge.container import Edge
from edge.envelope import integer, json_body, json_object, success
from edge.routes import ACCOUNT, Route, account_of, raw_tail
from edge.storage.r2 import Bucket
from edge.storage.r2_rules import Attributes, InvalidArgument, Stored, checked_attributes, range_from_header

HTTP_HEADERS = {
    "contentType": "content-type",
    "contentLanguage": "content-language",
    "contentDisposition": "content-disposition",
    "contentEncoding": "content-encoding",
    "cacheControl": "cache-control",
}


async def create(request: web.Request, edge: Edge) -> web.Response:
    body = await json_object(request, code=10029)
    bucket = await edge.storage.r2.create_bucket(
        account_of(request),
        body.get("name"),
        location=body.get("locationHint"),
        storage_class=body.get("storageClass"),
    )
    return success(_bucket(bucket))


async def list_buckets(request: web.Request, edge: Edge) -> web.Response:
    per_page = integer(request, "per_page", default=20, smallest=1, largest=1000, code=10029)
    buckets = await edge.storage.r2.list_buckets(
        account_of(request),
        after=request.query.get("cursor") or request.query.get("start_after", ""),
        contains=request.query.get("name_contains", ""),
        limit=per_page + 1,
        is_descending=request.query.get("direction") == "desc",
    )
    info: dict[str, Any] = {"per_page": per_page}
    if len(buckets) > per_page:
        info["cursor"] = buckets[per_page - 1].name
    return success({"buckets": [_bucket(bucket) for bucket in buckets[:per_page]]}, result_info=info)


async def get(request: web.Request, edge: Edge) -> web.Response:
    return success(_bucket(await edge.storage.r2.get_bucket(account_of(request), _name(request))))


async def delete(request: web.Request, edge: Edge) -> web.Response:
    await edge.storage.r2.delete_bucket(account_of(request), _name(request))
    return success({})


async def put_object(request: web.Request, edge: Edge) -> web.Response:
    stored = await edge.storage.r2.put(
        account_of(request),
        _name(request),
        raw_tail(request, "/objects/"),
        request.content.iter_any(),
        _attributes(request),
    )
    return success(_object(stored))


async def get_object(request: web.Request, edge: Edge) -> web.StreamResponse:
    key = raw_tail(request, "/objects/")
    wanted = range_from_header(request.headers.get("range", ""))
    async with edge.storage.r2.open(account_of(request), _name(request), key, wanted=wanted) as reading:
        stored = reading.stored
        response = web.StreamResponse(status=200 if reading.range is None else 206, headers=_headers(stored))
        response.content_length = reading.length
        if reading.range is not None:
            offset, length = reading.range
            response.headers["content-range"] = f"bytes {offset}-{offset + length - 1}/{stored.size}"
        await response.prepare(request)
        async for chunk in reading.chunks:
            await response.write(chunk)
        await response.write_eof()
        return response


async def delete_object(request: web.Request, edge: Edge) -> web.Response:
    key = raw_tail(request, "/objects/")
    await edge.storage.r2.delete(account_of(request), _name(request), [key])
    return success({"key": key})


async def list_objects(request: web.Request, edge: Edge) -> web.Response:
    per_page = integer(request, "per_page", default=1000, smallest=1, largest=1000, code=10022)
    listing = await edge.storage.r2.list_objects(
        account_of(request),
        _name(request),
        prefix=request.query.get("prefix", ""),
        delimiter=request.query.get("delimiter", ""),
        cursor=request.query.get("cursor", ""),
        start_after=request.query.get("start_after", ""),
        limit=per_page,
    )
    info = {
        "per_page": per_page,
        "cursor": listing.cursor,
        "is_truncated": bool(listing.cursor),
        "delimited": listing.prefixes,
    }
    return success([_object(stored) for stored in listing.objects], result_info=info)


async def delete_objects(request: web.Request, edge: Edge) -> web.Response:
    keys = await json_body(request, code=10029)
    if not isinstance(keys, list):
        raise InvalidArgument("a list of keys is needed")
    await edge.storage.r2.delete(account_of(request), _name(request), keys)
    return success([{"key": key} for key in keys])


def _attributes(request: web.Request) -> Attributes:
    http: dict[str, Any] = {
        field: request.headers[header] for field, header in HTTP_HEADERS.items() if header in request.headers
    }
    if "expires" in request.headers:
        try:
            http["cacheExpiry"] = int(parsedate_to_datetime(request.headers["expires"]).timestamp() * 1000)
        except ValueError as exc:
            raise InvalidArgument("expires is not a date") from exc
    custom = {
        name.lower().removeprefix("x-amz-meta-"): value
        for name, value in request.headers.items()
        if name.lower().startswith("x-amz-meta-")
    }
    return checked_attributes(http, custom, request.headers.get("cf-r2-storage-class"))


def _headers(stored: Stored) -> dict[str, str]:
    headers = {header: stored.http[field] for field, header in HTTP_HEADERS.items() if field in stored.http}
    headers.setdefault("content-type", "application/octet-stream")
    headers["etag"] = f'"{stored.etag}"'
    headers["last-modified"] = format_datetime(_uploaded_at(stored), usegmt=True)
    headers["accept-ranges"] = "bytes"
    if "cacheExpiry" in stored.http:
        expires_at = datetime.fromtimestamp(stored.http["cacheExpiry"] / 1000, UTC)
        headers["expires"] = format_datetime(expires_at, usegmt=True)
    return headers


def _name(request: web.Request) -> str:
    return request.match_info["bucket_name"]


def _bucket(bucket: Bucket) -> dict[str, Any]:
    return {
        "name": bucket.name,
        "creation_date": bucket.created_at,
        "location": bucket.location,
        "storage_class": bucket.storage_class,
        "jurisdiction": "default",
    }


def _object(stored: Stored) -> dict[str, Any]:
    return {
        "key": stored.key,
        "version": stored.version,
        "size": stored.size,
        "etag": stored.etag,
        "last_modified": _uploaded_at(stored).isoformat().replace("+00:00", "Z"),
        "http_metadata": stored.http,
        "custom_metadata": stored.custom,
        "storage_class": stored.storage_class,
    }


def _uploaded_at(stored: Stored) -> datetime:
    return datetime.fromtimestamp(stored.uploaded_ms / 1000, UTC)


BUCKETS = ACCOUNT + "/r2/buckets"
BUCKET = BUCKETS + "/{bucket_name}"

ROUTES: Sequence[Route] = (
    Route("POST", BUCKETS, "r2.create", create),
    Route("GET", BUCKETS, "r2.list", list_buckets),
    Route("GET", BUCKET, "r2.get", get),
    Route("DELETE", BUCKET, "r2.delete", delete),
    Route("GET", BUCKET + "/objects", "r2.objects.list", list_objects),
    Route("DELETE", BUCKET + "/objects", "r2.objects.delete_many", delete_objects),
    Route("PUT", BUCKET + "/objects/{key:.+}", "r2.objects.put", put_object),
    Route("GET", BUCKET + "/objects/{key:.+}", "r2.objects.get", get_object),
    Route("DELETE", BUCKET + "/objects/{key:.+}", "r2.objects.delete", delete_object),
)
