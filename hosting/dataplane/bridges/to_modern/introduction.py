"""What a server says of itself (`server/discover`), as the answer to a legacy client's `initialize`. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from hosting.dataplane.contract import Route
from hosting.dataplane.protocol.era import LEGACY_REVISIONS, META_PREFIX, META_SERVER, MODERN_REVISIONS

MAX_KEPT_S = 3600.0  # whatever the server says
TASKS = "io.modelcontextprotocol/tasks"


class Introduction(msgspec.Struct, frozen=True):
    """As much of a DiscoverResult as is used."""

    supportedVersions: tuple[str, ...]  # noqa: N815 - the protocol's spelling
    capabilities: dict[str, Any]
    instructions: str | None = None
    meta: dict[str, Any] = msgspec.field(default_factory=dict, name="_meta")
    ttlMs: float = 0  # noqa: N815
    cacheScope: str = "private"  # noqa: N815

    @property
    def is_modern(self) -> bool:
        return any(revision in MODERN_REVISIONS for revision in self.supportedVersions)

    @property
    def kept_s(self) -> float:
        return min(max(self.ttlMs / 1000, 0.0), MAX_KEPT_S)

    @property
    def is_public(self) -> bool:
        return self.cacheScope == "public"

    def declares(self, *path: str) -> bool:
        """Whether a capability is there, and not false: `declares("resources", "subscribe")`."""
        at: Any = self.capabilities
        for name in path:
            at = at.get(name) if isinstance(at, dict) else None
        return at is not None and at is not False


def read_introduction(result: bytes | msgspec.Raw) -> Introduction:
    """Raises msgspec.MsgspecError."""
    return _introductions.decode(result)


def initialize_result(
    introduction: Introduction, *, asked: object, route: Route, release: str
) -> dict[str, Any]:
    """`asked` is the revision the client named. Tasks cannot exist across a bridge, so they are not offered."""
    server = introduction.meta.get(META_SERVER)
    if not isinstance(server, dict) or not isinstance(server.get("name"), str):
        server = {"name": route.server_slug, "version": release}
    result: dict[str, Any] = {
        "protocolVersion": asked if asked in LEGACY_REVISIONS else LEGACY_REVISIONS[-1],
        "capabilities": _legacy_capabilities(introduction.capabilities),
        "serverInfo": {"version": release, **server},
    }
    if introduction.instructions is not None:
        result["instructions"] = introduction.instructions
    meta = {name: value for name, value in introduction.meta.items() if not name.startswith(META_PREFIX)}
    return {**result, "_meta": meta} if meta else result


def _legacy_capabilities(declared: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in declared.items() if name != "tasks"}
    extensions = kept.get("extensions")
    if isinstance(extensions, dict):
        kept["extensions"] = {name: value for name, value in extensions.items() if name != TASKS}
    return kept


_introductions = msgspec.json.Decoder(Introduction)
