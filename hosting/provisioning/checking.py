"""Loads an upload where it will run, to see whether it can be: a throw-away script, uploaded and deleted again.

It gets no tenant data: no Resource, no secret, no egress. Durable Object classes are declared afresh, so that a class the code does
not export is noticed. Whatever happens, the script is deleted; what a crash leaves behind, the reconciler sweeps by its name.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import redis
from django.conf import settings

from hosting import names, wake
from hosting.cloudflare.errors import CloudflareError, Rejected, Unauthorised
from hosting.cloudflare.port import Cloudflare, Module, ScriptUpload
from hosting.models import Account
from hosting.provisioning.accounts import open_cloudflare
from smcp.common.blobs import BlobMissing, get_blob
from smcp.common.tenancy import as_system

logger = logging.getLogger(__name__)
VERDICT_KEPT_S: Final = 60
#: Bindings that name nothing of anybody's: they may be there when code is only loaded.
HARMLESS: Final = frozenset({"plain_text", "json", "version_metadata", "durable_object_namespace"})


def check(*, check_id: str, request: Mapping[str, Any]) -> None:
    """Does what `wake.check_upload` asks for and puts the verdict where it is waited for."""
    verdict = json.dumps(judge(check_id, request))
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        key = wake.verdict_key(check_id)
        client.pipeline().rpush(key, verdict).expire(key, VERDICT_KEPT_S).execute()


def judge(check_id: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """A `wake.Verdict` as JSON, or `unavailable` with the reason when there is none to be had now."""
    try:
        upload = _upload(request)
    except BlobMissing:
        return {"unavailable": "The upload's code is no longer there."}
    with as_system():
        account_id = (
            Account.objects.filter(ready_at__isnull=False)
            .order_by("state", "name")
            .values_list("id", flat=True)
            .last()
        )
    if account_id is None:
        return {"unavailable": "No Cloudflare account is ready.", "retry_after_s": 60}
    try:
        cloudflare = open_cloudflare(account_id, sharer=request["tenant_id"])
        return load(cloudflare, names.check_name(check_id), upload)
    except Unauthorised as exc:
        logger.error("check.unauthorised account=%s error=%s", account_id, exc)
        return {"unavailable": "Cloudflare refuses the platform's access.", "retry_after_s": 60}
    except CloudflareError as exc:
        return {"unavailable": exc.message, "retry_after_s": int(exc.retry_after_s or 5)}


def load(cloudflare: Cloudflare, script: str, upload: ScriptUpload) -> dict[str, Any]:
    """A Verdict as JSON. Raises CloudflareError when it could not be found out."""
    try:
        found = cloudflare.put_script(script, upload)
    except Rejected as exc:
        return {"is_loadable": False, "code": exc.code, "message": exc.message}
    finally:
        _delete(cloudflare, script)
    return {"is_loadable": True, "handlers": [str(handler) for handler in found.extra.get("handlers") or []]}


def _delete(cloudflare: Cloudflare, script: str) -> None:
    try:
        cloudflare.delete_script(script)
    except CloudflareError as exc:
        logger.warning("check.left_behind script=%s error=%s", script, type(exc).__name__)


def _upload(request: Mapping[str, Any]) -> ScriptUpload:
    bindings: Sequence[Mapping[str, Any]] = [b for b in request["bindings"] if b["type"] in HARMLESS]
    classes = sorted({b["class_name"] for b in bindings if b["type"] == "durable_object_namespace"})
    return ScriptUpload(
        main_module=request["main_module"],
        modules=[
            Module(
                name=module["name"],
                content_type=module["content_type"],
                content=get_blob(request["tenant_id"], module["digest"]),
            )
            for module in request["modules"]
        ],
        compatibility_date=request["compatibility_date"],
        compatibility_flags=request["compatibility_flags"],
        bindings=bindings,
        migrations={"new_tag": "check", "steps": [{"new_sqlite_classes": classes}]} if classes else None,
        egress=[],
    )
