"""A script as the edge keeps it: frozen values, stored as JSON in the state's `scripts` table.

`namespace` is the dispatch namespace a script lives in, or "" for an account's own Worker. A script has one Version at a time; its
`classes` (Durable Objects with stored data) outlive Versions.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

DEFAULT_CPU_MS = 30_000


class ScriptKey(NamedTuple):
    """Which script: account first, as everywhere."""

    account: str
    namespace: str
    name: str


class Module(msgspec.Struct, frozen=True, kw_only=True):
    """One file of an upload. `name` has no leading `./`; the bytes are the blob `digest` (sha256, hex)."""

    name: str
    content_type: str
    digest: str
    size: int


class ObjectClass(msgspec.Struct, frozen=True, kw_only=True):
    """A Durable Object class that has storage. `key` names its directory, is random, and survives a rename."""

    name: str
    key: str
    is_sql: bool


class NamedHandlers(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    handlers: tuple[str, ...] = ()


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One upload with everything that configures it. `settings` are keys that are kept and shown but do nothing here."""

    id: str
    number: int
    created_at: str
    main_module: str
    modules: tuple[Module, ...]
    compatibility_date: str
    compatibility_flags: tuple[str, ...] = ()
    bindings: tuple[dict[str, Any], ...] = ()
    cpu_ms: int = DEFAULT_CPU_MS
    has_cpu_limit: bool = False
    egress: tuple[str, ...] = ()
    annotations: dict[str, str] = {}
    settings: dict[str, Any] = {}
    handlers: tuple[str, ...] = ()
    named_handlers: tuple[NamedHandlers, ...] = ()
    startup_time_ms: int = 0

    @property
    def etag(self) -> str:
        return self.id.replace("-", "")

    def bindings_of(self, kind: str) -> list[dict[str, Any]]:
        return [binding for binding in self.bindings if binding["type"] == kind]


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """`slot` is a small number nobody else has: it names the script's directory and its user on this machine.

    An account's own Worker has no address until `…/subdomain` gives it one, as wrangler does after an upload.
    """

    account: str
    namespace: str
    name: str
    slot: int
    tag: str
    created_at: str
    modified_at: str
    version: Version
    tags: tuple[str, ...] = ()
    classes: tuple[ObjectClass, ...] = ()
    migration_tag: str | None = None
    is_on_subdomain: bool = False

    @property
    def key(self) -> ScriptKey:
        return ScriptKey(self.account, self.namespace, self.name)


def now_text() -> str:
    """This moment, as Cloudflare writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def new_version_id() -> str:
    return str(uuid.uuid4())


def new_tag() -> str:
    """A script's immutable id: it survives uploads, and no other script ever gets it."""
    return uuid.uuid4().hex
