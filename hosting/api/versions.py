"""Versions of a server: uploaded the way Cloudflare takes uploads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Final

from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Query, Router

from hosting.operations import versions
from hosting.queries.servers import get_server, get_version, list_versions
from hosting.schemas.versions import VersionOut
from hosting.uploads import BODY_BYTES_MAX, BODY_MOST, UploadTooLarge, read_upload
from smcp.common.errors import TooMany
from smcp.common.rest import Answer, PageOf, PageQuery, keep, one, page_answer, respond
from tenants.auth import READ, WRITE, Call, Needs
from tenants.door import acting, by_hand, call_of, claim_of, released_on_error

router = Router(tags=["versions"])
ALL = "/tenants/{tenant}/servers/{server}/versions"
UPLOADS_MAX: Final = 4  # of one tenant at a time in one process
_under_way: Counter[str] = Counter()
_counting = Lock()
UPLOAD_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["metadata"],
                "properties": {
                    "metadata": {
                        "type": "object",
                        "required": ["main_module", "compatibility_date"],
                        "description": "As in Cloudflare's upload, without resource ids.",
                        "properties": {
                            "main_module": {"type": "string"},
                            "compatibility_date": {"type": "string", "format": "date"},
                            "compatibility_flags": {"type": "array", "items": {"type": "string"}},
                            "bindings": {"type": "array", "items": {"type": "object"}},
                            "migrations": {"type": "object"},
                            "limits": {"type": "object"},
                            "annotations": {"type": "object"},
                        },
                        "additionalProperties": False,
                    }
                },
                "additionalProperties": {
                    "type": "string",
                    "format": "binary",
                    "description": "One part a module, named by its file name.",
                },
            },
            "encoding": {"metadata": {"contentType": "application/json"}},
        }
    },
}


class TooManyUploads(TooMany):
    code = "too-many-uploads"
    title = "Too many uploads at once"


@router.get(ALL, response=PageOf[VersionOut], auth=Needs(READ))
def list_server_versions(request: HttpRequest, tenant: str, server: str, page: Query[PageQuery]) -> Answer:
    call = call_of(request)
    row = get_server(tenant_id=call.tenant_id, slug=server)
    rows = list_versions(tenant_id=call.tenant_id, server_id=row.id)
    return page_answer(request, rows, page, VersionOut.of)


@router.post(
    ALL,
    response={201: VersionOut, 200: VersionOut},
    auth=Needs(WRITE),
    openapi_extra={"requestBody": UPLOAD_BODY},
)
@by_hand
def upload_version(request: HttpRequest, tenant: str, server: str) -> HttpResponse:
    """Judged and tried in a sandbox first. The same content again: 200 with the Version that has it."""
    call = call_of(request)
    with _one_of_few(call.tenant_id):
        return _upload(request, call, server)


def _upload(request: HttpRequest, call: Call, server: str) -> HttpResponse:
    now = timezone.now()
    body = request.read(BODY_BYTES_MAX + 1)
    if len(body) > BODY_BYTES_MAX:
        raise UploadTooLarge(BODY_MOST)
    upload = read_upload(content_type=request.headers.get("Content-Type", ""), body=body, now=now)
    # Not of the body: a client that tries again makes up a new boundary.
    claim = claim_of(request, fingerprint=upload.digest.encode())
    with acting(call):
        server_id = get_server(tenant_id=call.tenant_id, slug=server).id
        kept = claim.take(now=now) if claim else None
    if kept is None:
        with released_on_error(call, claim):
            version, is_new = versions.upload_version(
                tenant_id=call.tenant_id, actor=call.actor, server_id=server_id, upload=upload
            )
            where = f"{request.path}/{version.number}"
            answer = one(VersionOut.of(version), status=201 if is_new else 200, headers={"Location": where})
            kept = keep(answer)
            if claim:
                with acting(call):
                    claim.keep(kept)
    return respond(request, kept)


@contextmanager
def _one_of_few(tenant_id: str) -> Iterator[None]:
    """An upload is held in memory while it is judged. Raises TooManyUploads."""
    with _counting:
        if _under_way[tenant_id] >= UPLOADS_MAX:
            raise TooManyUploads(f"At most {UPLOADS_MAX} at a time.", retry_after_s=2)
        _under_way[tenant_id] += 1
    try:
        yield
    finally:
        with _counting:
            _under_way[tenant_id] -= 1
            if not _under_way[tenant_id]:
                del _under_way[tenant_id]


@router.get(f"{ALL}/{{int:version}}", response=VersionOut, auth=Needs(READ))
def get_server_version(request: HttpRequest, tenant: str, server: str, version: int) -> Answer:
    call = call_of(request)
    row = get_server(tenant_id=call.tenant_id, slug=server)
    return one(VersionOut.of(get_version(tenant_id=call.tenant_id, server_id=row.id, number=version)))
