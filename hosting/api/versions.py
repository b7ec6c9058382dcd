"""Versions of a server: uploaded the way Cloudflare takes uploads."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Query, Router

from hosting.operations import versions
from hosting.queries.servers import get_server, get_version, list_versions
from hosting.schemas.versions import VersionOut
from hosting.uploads import BODY_BYTES_MAX, UploadTooLarge, read_upload
from smcp.common.rest import Answer, PageOf, PageQuery, keep, one, page_answer, respond
from tenants.auth import READ, WRITE, Needs
from tenants.door import acting, by_hand, call_of, claim_of, released_on_error

router = Router(tags=["versions"])
ALL = "/tenants/{tenant}/servers/{server}/versions"
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
    now = timezone.now()
    body = request.read(BODY_BYTES_MAX + 1)
    if len(body) > BODY_BYTES_MAX:
        raise UploadTooLarge(f"At most {BODY_BYTES_MAX} bytes.")
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


@router.get(f"{ALL}/{{int:version}}", response=VersionOut, auth=Needs(READ))
def get_server_version(request: HttpRequest, tenant: str, server: str, version: int) -> Answer:
    call = call_of(request)
    row = get_server(tenant_id=call.tenant_id, slug=server)
    return one(VersionOut.of(get_version(tenant_id=call.tenant_id, server_id=row.id, number=version)))
