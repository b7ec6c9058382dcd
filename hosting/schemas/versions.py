"""Versions, and the catalog they may come from."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from ninja import Schema

from hosting.catalog.catalog import CatalogEntry
from hosting.models import Version


class ModuleOut(Schema):
    """`digest`: sha256 of the bytes, hex. `size` in bytes."""

    name: str
    content_type: str
    digest: str
    size: int


class VersionOut(Schema):
    """`digest` names all that makes it behave: uploading the same again gives this Version back."""

    number: int
    digest: str
    main_module: str
    modules: list[ModuleOut]
    compatibility_date: date
    compatibility_flags: list[str]
    bindings: list[dict[str, Any]]
    migrations: dict[str, Any] | None
    limits: dict[str, int]
    annotations: dict[str, str]
    handlers: list[str]
    size_bytes: int
    created_by: str
    created_at: datetime

    @classmethod
    def of(cls, version: Version) -> VersionOut:
        return cls(
            number=version.number,
            digest=version.digest,
            main_module=version.main_module,
            modules=[ModuleOut(**module) for module in version.modules],
            compatibility_date=version.compatibility_date,
            compatibility_flags=version.compatibility_flags,
            bindings=version.bindings,
            migrations=version.migrations,
            limits=version.limits,
            annotations=version.annotations,
            handlers=version.handlers,
            size_bytes=version.size_bytes,
            created_by=version.created_by,
            created_at=version.created_at,
        )


class CatalogEntryOut(Schema):
    """A server that can be made by `POST …/servers {"catalog": "<slug>", "slug": …}`."""

    slug: str
    title: str
    description: str
    shows: list[str]
    version: str
    compatibility_date: str
    bindings: list[dict[str, str]]

    @classmethod
    def of(cls, entry: CatalogEntry) -> CatalogEntryOut:
        return cls(
            slug=entry.slug,
            title=entry.title,
            description=entry.description,
            shows=list(entry.shows),
            version=entry.version,
            compatibility_date=entry.compatibility_date,
            bindings=[dict(binding) for binding in entry.bindings],
        )


class CatalogOut(Schema):
    items: list[CatalogEntryOut]
