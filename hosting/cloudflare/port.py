"""What SMCP asks of Cloudflare, on one page. No I/O here: `client.py` speaks HTTP, tests and tools may speak otherwise.

Every method is safe to repeat where its name says so: `ensure_*` creates or adopts *by our own name*, `delete_*` treats
"not found" as done. Names are always ours (`smcp-<installation>-<ulid>`), so adopting never takes a stranger's thing.
All methods raise only the errors of `errors.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class ResourceKind(StrEnum):
    """What we create and therefore must account for."""

    SCRIPT = "script"
    KV_NAMESPACE = "kv_namespace"
    R2_BUCKET = "r2_bucket"
    D1_DATABASE = "d1_database"


@dataclass(frozen=True, kw_only=True)
class Module:
    """One file of an upload."""

    name: str
    content_type: str  # application/javascript+module, text/plain, application/wasm, …
    content: bytes


@dataclass(frozen=True, kw_only=True)
class ScriptUpload:
    """One script for the dispatch namespace, whole: code, bindings and secrets go up in one request.

    Source: https://developers.cloudflare.com/workers/configuration/multipart-upload-metadata/
    """

    main_module: str
    modules: Sequence[Module]
    compatibility_date: str
    compatibility_flags: Sequence[str] = ()
    bindings: Sequence[Mapping[str, Any]] = ()  # Cloudflare's shape; secrets as `secret_text`
    migrations: Mapping[str, Any] | None = None
    cpu_ms: int | None = None
    tags: Sequence[str] = ()
    egress: Sequence[str] | None = (
        None  # allow-list for a runtime that can enforce it per script; None: refuse all
    )


@dataclass(frozen=True, kw_only=True)
class Found:
    """A thing that exists in the account."""

    kind: ResourceKind
    name: str  # our name
    id: str  # Cloudflare's id (a script's and a bucket's is its name)
    created_at: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


class Cloudflare(Protocol):
    """One account. Blocking; each call takes one permit of the account's API budget."""

    def verify_token(self) -> None: ...

    # Workers for Platforms
    def ensure_dispatch_namespace(self) -> None: ...
    def put_account_script(self, name: str, upload: ScriptUpload) -> Found:
        """A Worker of our own outside the namespace (the dispatcher). Replaces what is there."""

    def get_account_script_tags(self, name: str) -> list[str] | None:
        """The tags of such a Worker; None when there is none."""

    def delete_account_script(self, name: str) -> None: ...
    def expose_account_script(self, name: str) -> None:
        """Gives it its address on the account's workers.dev subdomain. Repeat freely."""

    def put_script(self, name: str, upload: ScriptUpload) -> Found:
        """Into the dispatch namespace. Replaces what is there: repeat freely."""

    def get_script(self, name: str) -> Found | None: ...
    def delete_script(self, name: str) -> None: ...
    def list_scripts(self, *, tag: str | None = None) -> Iterator[Found]: ...
    def delete_scripts_tagged(self, tag: str) -> None: ...

    # Storage
    def ensure_kv_namespace(self, name: str) -> Found: ...
    def delete_kv_namespace(self, namespace_id: str) -> None: ...
    def list_kv_namespaces(self) -> Iterator[Found]: ...
    def ensure_r2_bucket(self, name: str, *, location: str | None = None) -> Found: ...
    def delete_r2_bucket(self, name: str) -> None:
        """Raises NotEmpty while objects remain."""

    def list_r2_buckets(self) -> Iterator[Found]: ...
    def ensure_d1_database(self, name: str, *, location: str | None = None) -> Found: ...
    def delete_d1_database(self, database_id: str) -> None: ...
    def list_d1_databases(self) -> Iterator[Found]: ...
