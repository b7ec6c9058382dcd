"""Reads the catalog: each folder beside this file that holds a `catalog.json` is an entry.

    <slug>/catalog.json    title, description, what it shows, version, bindings by name, compatibility date
    <slug>/src/            what people read and change
    <slug>/dist/           the bundle that is deployed, committed; `npm run build` makes it again, byte for byte

An entry is read once per process and never changes while it runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

from hosting.cloudflare.port import Module

FOLDER: Final = Path(__file__).parent
CONTENT_TYPES: Final = {
    ".js": "application/javascript+module",
    ".txt": "text/plain",
    ".wasm": "application/wasm",
}


class NotInCatalog(LookupError):
    """There is no entry of that slug."""


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """One deployable MCP server, with everything an upload needs."""

    slug: str
    title: str
    description: str  # one sentence
    shows: Sequence[str]  # what one can learn from it, a line each
    version: str
    main_module: str
    modules: Sequence[Module]
    compatibility_date: str
    compatibility_flags: Sequence[str]
    bindings: Sequence[Mapping[str, str]]  # {name, type} as a tenant declares them; no ids
    path: str  # where it serves MCP

    @property
    def metadata(self) -> dict[str, Any]:
        """The `metadata` part of a multipart upload.

        Source: https://developers.cloudflare.com/workers/configuration/multipart-upload-metadata/
        """
        return {
            "main_module": self.main_module,
            "compatibility_date": self.compatibility_date,
            "compatibility_flags": list(self.compatibility_flags),
            "bindings": [dict(binding) for binding in self.bindings],
        }


class _Described(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `catalog.json` says."""

    title: str
    description: str
    shows: tuple[str, ...]
    version: str
    main_module: str
    compatibility_date: str
    compatibility_flags: tuple[str, ...]
    bindings: tuple[dict[str, str], ...]
    path: str


@cache
def list_entries() -> Sequence[CatalogEntry]:
    """All entries, by title."""
    entries = [_read(path.parent) for path in FOLDER.glob("*/catalog.json")]
    return tuple(sorted(entries, key=lambda entry: entry.title))


def get_entry(slug: str) -> CatalogEntry:
    """Raises NotInCatalog."""
    for entry in list_entries():
        if entry.slug == slug:
            return entry
    raise NotInCatalog(f"There is no catalog entry {slug!r}.")


def _read(folder: Path) -> CatalogEntry:
    described = msgspec.json.decode((folder / "catalog.json").read_bytes(), type=_Described)
    modules = [
        Module(name=path.name, content_type=CONTENT_TYPES[path.suffix], content=path.read_bytes())
        for path in sorted((folder / "dist").iterdir())
    ]
    return CatalogEntry(
        slug=folder.name,
        title=described.title,
        description=described.description,
        shows=described.shows,
        version=described.version,
        main_module=described.main_module,
        modules=tuple(modules),
        compatibility_date=described.compatibility_date,
        compatibility_flags=described.compatibility_flags,
        bindings=tuple(MappingProxyType(binding) for binding in described.bindings),
        path=described.path,
    )
