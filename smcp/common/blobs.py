"""Module bytes, content-addressed behind Django's storage. The tenant comes first: nobody shares another's blob.

A blob is written before the row that names it, so a crash leaves at most an unnamed blob, never a row without bytes.
"""

from __future__ import annotations

import hashlib
from functools import cache

from django.core.files.base import ContentFile
from django.core.files.storage import Storage, storages

from smcp.common.ids import is_id


class BlobMissing(Exception):
    """A row names bytes that the storage does not have."""


@cache
def _storage() -> Storage:
    return storages["blobs"]


def put_blob(tenant_id: str, content: bytes) -> str:
    """Stores the bytes once and returns their sha256, hex."""
    digest = hashlib.sha256(content).hexdigest()
    name = _name(tenant_id, digest)
    if not _storage().exists(name):
        _storage().save(name, ContentFile(content))
    return digest


def get_blob(tenant_id: str, digest: str) -> bytes:
    """Raises BlobMissing, also when the bytes no longer match their digest."""
    try:
        with _storage().open(_name(tenant_id, digest)) as stored:
            content: bytes = stored.read()
    except FileNotFoundError as exc:
        raise BlobMissing(digest) from exc
    if hashlib.sha256(content).hexdigest() != digest:
        raise BlobMissing(digest)
    return content


def delete_blob(tenant_id: str, digest: str) -> None:
    """Gone is gone: a missing blob is no error."""
    _storage().delete(_name(tenant_id, digest))


def _name(tenant_id: str, digest: str) -> str:
    if not is_id(tenant_id) or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise ValueError("not a blob name")
    return f"{tenant_id}/{digest[:2]}/{digest}"
