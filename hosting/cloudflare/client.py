"""The port of `port.py` over HTTP: one account, spoken to with httpx. The same code drives Cloudflare and the local edge.

Every request takes a permit of the account's budget and is guarded by `gate` (the caller's "am I still the one to do this?"). A
request is repeated here, once and at once, only where repeating is safe and something broke on the way; everything slower is
the caller's business. No httpx error leaves this module; the token is in the `Authorization` header and nowhere else.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx

from hosting.cloudflare.errors import (
    Busy,
    CloudflareError,
    Conflict,
    NotFound,
    Rejected,
    Unavailable,
    error_of,
)
from hosting.cloudflare.multipart import encode
from hosting.cloudflare.port import Found, ResourceKind, ScriptUpload

logger = logging.getLogger(__name__)

TIMEOUT_S: Final = 30.0
PER_PAGE: Final = 1000
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


def no_gate() -> None:
    """Nothing to guard."""


def open_http(*, base_url: str, account_id: str, token: str, timeout_s: float = TIMEOUT_S) -> httpx.Client:
    """The connections of one account. Costs 20 ms to make: keep it for the life of a process, but not across a fork."""
    return httpx.Client(
        base_url=f"{base_url.rstrip('/')}/accounts/{account_id}",
        headers={"authorization": f"Bearer {token}", "user-agent": "smcp"},
        timeout=timeout_s,
        # A proxy from the environment is for the internet, never for this machine.
        trust_env=urlsplit(base_url).hostname not in LOOPBACK,
    )


class HttpCloudflare:
    """One account at `base_url` (…/client/v4). `http` are connections to keep for the next one; without, it makes its own."""

    def __init__(
        self,
        *,
        base_url: str,
        account_id: str,
        token: str,
        dispatch_namespace: str,
        permit: Callable[[], AbstractContextManager[None]] = nullcontext,
        gate: Callable[[], None] = no_gate,
        timeout_s: float = TIMEOUT_S,
        http: httpx.Client | None = None,
    ) -> None:
        self._account_id = account_id
        self._namespace = dispatch_namespace
        self._permit = permit
        self._gate = gate
        self._http = http or open_http(
            base_url=base_url, account_id=account_id, token=token, timeout_s=timeout_s
        )

    def __repr__(self) -> str:
        return f"<HttpCloudflare {self._account_id}>"

    def __enter__(self) -> HttpCloudflare:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # ── The account ──────────────────────────────────────────────────────────────────────────────────────────────────

    def verify_token(self) -> None:
        """Raises Unauthorised."""
        self._call("account", "GET", "/tokens/verify")

    # ── Workers for Platforms ────────────────────────────────────────────────────────────────────────────────────────

    def ensure_dispatch_namespace(self) -> None:
        path = f"/workers/dispatch/namespaces/{quote(self._namespace)}"
        try:
            self._call("workers", "GET", path)
        except NotFound:
            try:
                self._call("workers", "POST", "/workers/dispatch/namespaces", body={"name": self._namespace})
            except (Conflict, Rejected, Unavailable) as exc:
                # Somebody was faster, or the answer was lost: it is there, or the first error stands.
                try:
                    self._call("workers", "GET", path)
                except NotFound:
                    raise exc from None

    def put_account_script(self, name: str, upload: ScriptUpload) -> Found:
        return self._put(f"/workers/scripts/{quote(name)}", name, upload)

    def expose_account_script(self, name: str) -> None:
        """On the account's workers.dev subdomain. https://developers.cloudflare.com/workers/configuration/routing/workers-dev/"""
        wanted = {"enabled": True, "previews_enabled": False}
        self._call("workers", "POST", f"/workers/scripts/{quote(name)}/subdomain", body=wanted)

    def get_account_script_tags(self, name: str) -> list[str] | None:
        """The tags of a Worker of our own outside the namespace; None when there is none."""
        try:
            settings = self._call("workers", "GET", f"/workers/scripts/{quote(name)}/settings")
        except NotFound:
            return None
        return [str(tag) for tag in (settings or {}).get("tags") or []]

    def delete_account_script(self, name: str) -> None:
        self._delete("workers", f"/workers/scripts/{quote(name)}", query={"force": "true"})

    def put_script(self, name: str, upload: ScriptUpload) -> Found:
        return self._put(self._script(name), name, upload)

    def get_script(self, name: str) -> Found | None:
        try:
            return _script_found(self._call("workers", "GET", self._script(name)) or {}, name)
        except NotFound:
            return None

    def delete_script(self, name: str) -> None:
        self._delete("workers", self._script(name), query={"force": "true"})

    def list_scripts(self, *, tag: str | None = None) -> Iterator[Found]:
        query = {"tags": f"{tag}:yes"} if tag else {}
        for row in self._pages("workers", self._scripts, query=query):
            yield _script_found(row, str(row.get("id") or row.get("script_name") or ""))

    def delete_scripts_tagged(self, tag: str) -> None:
        self._delete("workers", self._scripts, query={"tags": f"{tag}:yes"})

    # ── Storage ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def ensure_kv_namespace(self, name: str) -> Found:
        return self._ensure(
            lambda: _kv_found(self._call("kv", "POST", "/storage/kv/namespaces", body={"title": name})),
            lambda: _named(self.list_kv_namespaces(), name),
        )

    def delete_kv_namespace(self, namespace_id: str) -> None:
        self._delete("kv", f"/storage/kv/namespaces/{quote(namespace_id)}")

    def list_kv_namespaces(self) -> Iterator[Found]:
        return map(_kv_found, self._pages("kv", "/storage/kv/namespaces"))

    def ensure_r2_bucket(self, name: str, *, location: str | None = None) -> Found:
        body = {"name": name, **({"locationHint": location} if location else {})}
        return self._ensure(
            lambda: _r2_found(self._call("r2", "POST", "/r2/buckets", body=body)),
            lambda: self._get_r2_bucket(name),
        )

    def delete_r2_bucket(self, name: str) -> None:
        self._delete("r2", f"/r2/buckets/{quote(name)}")

    def list_r2_buckets(self) -> Iterator[Found]:
        """R2 lists by cursor, and its rows are one level deeper than everybody else's."""
        cursor = ""
        while True:
            query = {"per_page": str(PER_PAGE), **({"cursor": cursor} if cursor else {})}
            envelope = self._envelope("r2", "GET", "/r2/buckets", query=query)
            yield from map(_r2_found, (envelope.get("result") or {}).get("buckets") or [])
            cursor = (envelope.get("result_info") or {}).get("cursor") or ""
            if not cursor:
                return

    def ensure_d1_database(self, name: str, *, location: str | None = None) -> Found:
        body = {"name": name, **({"primary_location_hint": location} if location else {})}
        return self._ensure(
            lambda: _d1_found(self._call("d1", "POST", "/d1/database", body=body)),
            lambda: _named(map(_d1_found, self._pages("d1", "/d1/database", query={"name": name})), name),
        )

    def delete_d1_database(self, database_id: str) -> None:
        self._delete("d1", f"/d1/database/{quote(database_id)}")

    def list_d1_databases(self) -> Iterator[Found]:
        return map(_d1_found, self._pages("d1", "/d1/database"))

    # ── How ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _scripts(self) -> str:
        return f"/workers/dispatch/namespaces/{quote(self._namespace)}/scripts"

    def _script(self, name: str) -> str:
        return f"{self._scripts}/{quote(name)}"

    def _put(self, path: str, name: str, upload: ScriptUpload) -> Found:
        content, content_type = encode(upload)
        result = self._call("workers", "PUT", path, content=content, content_type=content_type)
        return _script_found(result or {}, name)

    def _get_r2_bucket(self, name: str) -> Found | None:
        try:
            return _r2_found(self._call("r2", "GET", f"/r2/buckets/{quote(name)}"))
        except NotFound:
            return None

    def _ensure(self, create: Callable[[], Found], look_up: Callable[[], Found | None]) -> Found:
        """Creates, or adopts what has exactly our name: after a lost answer, and when it was there already."""
        try:
            return create()
        except (Conflict, Unavailable) as exc:
            found = look_up()
            if found is None:
                raise exc
            return found

    def _delete(self, product: str, path: str, *, query: Mapping[str, str] | None = None) -> None:
        try:
            self._call(product, "DELETE", path, query=query)
        except NotFound:
            return

    def _pages(
        self, product: str, path: str, *, query: Mapping[str, str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Every row of a list that counts pages. Ends at an empty page, or where the answer says it holds everything."""
        seen, page = 0, 1
        while True:
            envelope = self._envelope(
                product, "GET", path, query={**(query or {}), "page": str(page), "per_page": str(PER_PAGE)}
            )
            rows = envelope.get("result") or []
            yield from rows
            seen += len(rows)
            info = envelope.get("result_info") or {}
            if not rows or not info or seen >= int(info.get("total_count") or seen + 1):
                return
            page += 1

    def _call(self, product: str, method: str, path: str, **request: Any) -> Any:
        return self._envelope(product, method, path, **request).get("result")

    def _envelope(
        self,
        product: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: bytes | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """One request, repeated once where that is safe. Raises the errors of `errors.py` only."""
        if body is not None:
            content = json.dumps(body).encode()
        headers = {"content-type": content_type} if content is not None else {}
        request = self._http.build_request(method, path, params=query, content=content, headers=headers)
        try:
            return self._once(product, request)
        except (Unavailable, Busy) as exc:
            # POST creates; only its caller knows how to look whether it did.
            if method == "POST" or isinstance(exc.__cause__, httpx.TimeoutException):
                raise
            return self._once(product, request)

    def _once(self, product: str, request: httpx.Request) -> dict[str, Any]:
        self._gate()
        with self._permit():
            try:
                response = self._http.send(request)
            except httpx.TimeoutException as exc:
                raise Unavailable("Cloudflare's API did not answer in time.") from exc
            except httpx.HTTPError as exc:
                raise Unavailable(f"Cloudflare's API could not be reached ({type(exc).__name__}).") from exc
            envelope = _envelope_of(response)
            if response.is_success and envelope.get("success") is True:
                return envelope
            raise _error_in(product, response, envelope)


def _envelope_of(response: httpx.Response) -> dict[str, Any]:
    try:
        envelope = response.json()
    except ValueError:
        return {}
    return envelope if isinstance(envelope, dict) else {}


def _error_in(product: str, response: httpx.Response, envelope: Mapping[str, Any]) -> CloudflareError:
    errors = envelope.get("errors") or []
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    if response.is_success and not first:
        # Neither a success nor an error: a proxy's page, half an answer. It may have been carried out.
        return Unavailable("Cloudflare's API answered something that is not its envelope.")
    try:
        retry_after_s = float(response.headers.get("retry-after", ""))
    except ValueError:
        retry_after_s = None
    return error_of(
        product=product,
        status=response.status_code,
        code=int(first.get("code") or 0),
        message=str(first.get("message") or f"Cloudflare's API answered {response.status_code}."),
        retry_after_s=retry_after_s,
    )


def _named(found: Iterator[Found], name: str) -> Found | None:
    return next((thing for thing in found if thing.name == name), None)


def _script_found(row: Mapping[str, Any], name: str) -> Found:
    inner = row.get("script")
    script = inner if isinstance(inner, Mapping) else row
    created_at = str(row.get("created_on") or script.get("created_on") or "")
    return Found(kind=ResourceKind.SCRIPT, name=name, id=name, created_at=created_at, extra=dict(script))


def _kv_found(row: Mapping[str, Any]) -> Found:
    return Found(kind=ResourceKind.KV_NAMESPACE, name=str(row["title"]), id=str(row["id"]))


def _r2_found(row: Mapping[str, Any]) -> Found:
    name = str(row["name"])
    created_at = str(row.get("creation_date") or "")
    return Found(kind=ResourceKind.R2_BUCKET, name=name, id=name, created_at=created_at)


def _d1_found(row: Mapping[str, Any]) -> Found:
    created_at = str(row.get("created_at") or "")
    return Found(
        kind=ResourceKind.D1_DATABASE, name=str(row["name"]), id=str(row["uuid"]), created_at=created_at
    )
