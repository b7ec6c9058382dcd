"""Uploads become Versions: judged, tried in the sandbox, then numbered. The same content twice is the same Version.

The bytes are blobs before the sandbox sees them, and the row comes last. If we crash half-way, blobs without a row are left,
which nobody can name; a refused upload takes its blobs away again, unless a Version uses the same bytes.

DomainError
├── Invalid:      CodeRefused (the sandbox could not load it)
└── Unavailable:  raised by `wake.check_upload` when no worker answers
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import connection
from django.db.models import Max

from hosting import wake
from hosting.models import Server, Version
from hosting.operations.rows import check_hosted, lock_server
from hosting.uploads import Upload
from smcp.common import audit
from smcp.common.blobs import delete_blob, put_blob
from smcp.common.errors import Invalid
from smcp.common.tenancy import as_tenant


class CodeRefused(Invalid):
    code = "code-refused"
    title = "The code cannot be loaded"


def upload_version(*, tenant_id: str, actor: str, server_id: str, upload: Upload) -> tuple[Version, bool]:
    """The Version and whether it is new. Takes seconds, and must not run inside a transaction: the sandbox is asked.

    Raises NotFound, ServerGone, RunsElsewhere, CodeRefused, Unavailable.
    """
    with as_tenant(tenant_id):
        server = lock_server(tenant_id=tenant_id, server_id=server_id)
        check_hosted(server)
        known = find_version(server=server, digest=upload.digest)
    if known is not None:
        return known, False
    with _blobs(tenant_id, upload) as modules:
        connection.close()  # others need it while we wait
        verdict = wake.check_upload(
            tenant_id=tenant_id,
            modules=[
                wake.ModuleRef(name=each["name"], content_type=each["content_type"], digest=each["digest"])
                for each in modules
            ],
            main_module=upload.main_module,
            compatibility_date=upload.compatibility_date.isoformat(),
            compatibility_flags=upload.compatibility_flags,
            bindings=upload.bindings,
            migrations=upload.migrations,
        )
        if not verdict.is_loadable:
            raise CodeRefused(verdict.message, fields={"code": verdict.message})
        with as_tenant(tenant_id):
            server = lock_server(tenant_id=tenant_id, server_id=server_id)
            # Somebody may have uploaded the same while the sandbox was busy.
            known = find_version(server=server, digest=upload.digest)
            if known is not None:
                return known, False
            return add_version(server=server, actor=actor, upload=upload, handlers=verdict.handlers), True


def find_version(*, server: Server, digest: str) -> Version | None:
    """The Version of this content. Needs a transaction as the tenant."""
    return Version.objects.filter(tenant_id=server.tenant_id, server=server, digest=digest).first()


def add_version(*, server: Server, actor: str, upload: Upload, handlers: Sequence[str]) -> Version:
    """The row, numbered, and its bytes. The caller holds the server's row and vouches for the code."""
    _lock_blobs(server.tenant_id)
    modules = _put_blobs(server.tenant_id, upload)
    last = Version.objects.filter(tenant_id=server.tenant_id, server=server).aggregate(last=Max("number"))
    version = Version.objects.create(
        tenant_id=server.tenant_id,
        server=server,
        number=(last["last"] or 0) + 1,
        digest=upload.digest,
        main_module=upload.main_module,
        modules=modules,
        compatibility_date=upload.compatibility_date,
        compatibility_flags=list(upload.compatibility_flags),
        bindings=[dict(binding) for binding in upload.bindings],
        migrations=upload.migrations,
        limits=dict(upload.limits),
        annotations=dict(upload.annotations),
        handlers=list(handlers),
        size_bytes=upload.size_bytes,
        created_by=actor,
    )
    audit.record(
        tenant_id=server.tenant_id,
        actor=actor,
        action="version.uploaded",
        object_kind="version",
        object_id=version.id,
        detail={"server": server.slug, "number": version.number, "digest": version.digest},
    )
    return version


@contextmanager
def _blobs(tenant_id: str, upload: Upload) -> Iterator[list[dict[str, Any]]]:
    """The bytes where the sandbox finds them. Whatever goes wrong, they do not stay without a Version."""
    modules = _put_blobs(tenant_id, upload)
    try:
        yield modules
    except BaseException:
        with as_tenant(tenant_id):
            _lock_blobs(tenant_id)
            for module in modules:
                digest = module["digest"]
                if not Version.objects.filter(
                    tenant_id=tenant_id, modules__contains=[{"digest": digest}]
                ).exists():
                    delete_blob(tenant_id, digest)
        raise


def _put_blobs(tenant_id: str, upload: Upload) -> list[dict[str, Any]]:
    return [
        {
            "name": module.name,
            "content_type": module.content_type,
            "digest": put_blob(tenant_id, module.content),
            "size": len(module.content),
        }
        for module in upload.modules
    ]


def _lock_blobs(tenant_id: str) -> None:
    """One at a time names or removes a tenant's blobs: what one upload removes, another may just be naming."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"blobs:{tenant_id}"])
