"""What KV allows: its limits, its errors, and the checks of keys, metadata and expiries.

Limits: https://developers.cloudflare.com/kv/platform/limits/.
"""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from typing import Any

from edge.envelope import ApiError

MAX_KEY = 512
MAX_VALUE = 25 * 1024 * 1024
MAX_METADATA = 1024
MAX_TITLE = 512
MAX_NAMESPACES = 1000
MIN_TTL_S = 60
MAX_LIST = 1000
MAX_BULK = 10_000
MAX_BULK_GET = 100
BASE64_PIECE = 256 * 1024


class KvError(ApiError):
    """NoSuchNamespace · NoSuchKey (404) · TitleTaken · InvalidTitle · InvalidKey · InvalidEntry (400) · TooMany (403) ·
    ValueTooLarge (413) · TooFast (429)."""


class NoSuchNamespace(KvError):
    def __init__(self) -> None:
        super().__init__(404, 10013, "namespace not found")


class NoSuchKey(KvError):
    def __init__(self) -> None:
        super().__init__(404, 10009, "get: 'key not found'")


class TitleTaken(KvError):
    def __init__(self) -> None:
        super().__init__(400, 10014, "a namespace with this account ID and title already exists")


class InvalidTitle(KvError):
    def __init__(self) -> None:
        super().__init__(400, 10019, f"a namespace's title is a text of 1 to {MAX_TITLE} bytes")


class TooMany(KvError):
    def __init__(self) -> None:
        super().__init__(403, 10018, f"this account has reached its limit of {MAX_NAMESPACES} namespaces")


class InvalidKey(KvError):
    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(status, 10030, message)


class InvalidEntry(KvError):
    """Metadata, expiry, a list's limit or a bulk body that cannot be."""

    def __init__(self, message: str) -> None:
        super().__init__(400, 10012, message)


class TooFast(KvError):
    """Clients should key on the status. A Worker sees it as `KV PUT failed: 429 Too Many Requests`."""

    def __init__(self) -> None:
        super().__init__(429, 10013, "Too Many Requests")


class ValueTooLarge(KvError):
    def __init__(self, size: int | None) -> None:
        of = "" if size is None else f" of {size}"
        super().__init__(413, 10047, f"Value length{of} exceeds limit of {MAX_VALUE}.")


@dataclass(frozen=True)
class Put:
    """One entry of a bulk write, checked."""

    key: bytes
    value: bytes
    metadata: str | None
    expires_at: int | None


def checked_key(key: Any) -> bytes:
    """The key's bytes. Raises InvalidKey."""
    if not isinstance(key, str) or key in ("", ".", ".."):
        raise InvalidKey("a key is a text, and neither empty nor '.' nor '..'")
    try:
        encoded = key.encode()
    except UnicodeEncodeError as exc:
        raise InvalidKey("a key is valid UTF-8") from exc
    if len(encoded) > MAX_KEY:
        raise InvalidKey(
            f"UTF-8 encoded length of {len(encoded)} exceeds key length limit of {MAX_KEY}.", 414
        )
    return encoded


def checked_metadata(text: str | bytes | None) -> str | None:
    """Metadata's JSON in the form it is kept: compact, ASCII only. Raises InvalidEntry."""
    if text is None or not text:
        return None
    size = len(text if isinstance(text, bytes) else text.encode(errors="surrogateescape"))
    if size > MAX_METADATA:
        raise InvalidEntry(f"Metadata length of {size} exceeds limit of {MAX_METADATA}.")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidEntry("metadata must be valid JSON") from exc
    return None if value is None else json.dumps(value, separators=(",", ":"))


def checked_expiry(expiration: Any, ttl: Any, *, now: float | None = None) -> int | None:
    """When an entry ends, in seconds since 1970. The time to live wins, as it does at Cloudflare. Raises InvalidEntry."""
    now = time.time() if now is None else now
    if ttl not in (None, ""):
        seconds = _whole(ttl)
        if seconds is None or seconds < MIN_TTL_S:
            raise InvalidEntry(
                f"Invalid expiration_ttl of {ttl}. Expiration TTL must be at least {MIN_TTL_S}."
            )
        return int(now) + seconds
    if expiration not in (None, ""):
        seconds = _whole(expiration)
        if seconds is None or seconds < int(now) + MIN_TTL_S:
            raise InvalidEntry(
                f"Invalid expiration of {expiration}. Expiration times must be at least {MIN_TTL_S} seconds in the future."
            )
        return seconds
    return None


def checked_puts(body: Any) -> list[Put]:
    """The entries of a bulk write. Raises InvalidEntry, InvalidKey, ValueTooLarge; then none is written."""
    if not isinstance(body, list) or len(body) > MAX_BULK:
        raise InvalidEntry(f"a bulk write is a list of at most {MAX_BULK} entries")
    puts = []
    for item in body:
        if not isinstance(item, dict) or not isinstance(item.get("value"), str):
            raise InvalidEntry("each entry of a bulk write needs a key and a value, both texts")
        try:
            value = _from_base64(item["value"]) if item.get("base64") else item["value"].encode()
        except ValueError as exc:
            raise InvalidEntry("an entry's value is not what it claims to be") from exc
        if len(value) > MAX_VALUE:
            raise ValueTooLarge(len(value))
        metadata = item.get("metadata")
        puts.append(
            Put(
                key=checked_key(item.get("key")),
                value=value,
                metadata=None
                if metadata is None
                else checked_metadata(json.dumps(metadata, separators=(",", ":"))),
                expires_at=checked_expiry(item.get("expiration"), item.get("expiration_ttl")),
            )
        )
    return puts


def _from_base64(text: str) -> bytes:
    """In pieces: whole, the longest value would hold up everybody. Raises ValueError."""
    if "=" in text[:-2]:
        raise ValueError("padding inside")
    parts = (text[start : start + BASE64_PIECE] for start in range(0, len(text), BASE64_PIECE))
    return b"".join(base64.b64decode(part, validate=True) for part in parts)


def checked_title(title: Any) -> str:
    if not isinstance(title, str) or not title.strip() or len(title.encode(errors="replace")) > MAX_TITLE:
        raise InvalidTitle
    return title


def _whole(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
        return int(number) if number == int(number) and abs(number) < 2**53 else None
    except (ValueError, OverflowError):
        return None
