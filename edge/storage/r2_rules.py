"""What R2 allows: its limits, its errors, names, conditions and ranges.

Limits: https://developers.cloudflare.com/r2/platform/limits/; conditions: https://www.rfc-editor.org/rfc/rfc9110#section-13.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge.envelope import ApiError

MAX_KEY = 1024
MAX_OBJECT = 5 * 1024**3 - 5 * 1024**2
MAX_METADATA = 8192
MAX_LIST = 1000
MAX_DELETE = 1000
MAX_PART_NUMBER = 10_000
MIN_PART = 5 * 1024**2
BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
LOCATIONS = frozenset({"apac", "eeur", "enam", "oc", "weur", "wnam"})
STORAGE_CLASSES = frozenset({"Standard", "InfrequentAccess"})
HTTP_FIELDS = frozenset(
    {"contentType", "contentLanguage", "contentDisposition", "contentEncoding", "cacheControl", "cacheExpiry"}
)


class R2Error(ApiError):
    """NoSuchBucket · NoSuchObject (404) · BucketExists · BucketNotEmpty (409) · PreconditionFailed (412) · InvalidRange (416) ·
    Invalid…, …TooLarge, …TooSmall, BadDigest, NoSuchUpload, InvalidPart, BadUpload (400)."""


class NoSuchBucket(R2Error):
    def __init__(self) -> None:
        super().__init__(404, 10006, "The specified bucket does not exist.")


class BucketExists(R2Error):
    def __init__(self) -> None:
        super().__init__(409, 10004, "The bucket you tried to create already exists, and you own it.")


class BucketNotEmpty(R2Error):
    def __init__(self) -> None:
        super().__init__(409, 10008, "The bucket you tried to delete is not empty.")


class InvalidBucketName(R2Error):
    def __init__(self) -> None:
        super().__init__(400, 10005, "The specified bucket name is not valid.")


class NoSuchObject(R2Error):
    def __init__(self) -> None:
        super().__init__(404, 10007, "The specified key does not exist.")


class InvalidObjectName(R2Error):
    def __init__(self) -> None:
        super().__init__(400, 10020, "The specified object name is not valid.")


class InvalidArgument(R2Error):
    def __init__(self, message: str) -> None:
        super().__init__(400, 10029, message)


class InvalidMaxKeys(R2Error):
    def __init__(self) -> None:
        super().__init__(400, 10022, f"MaxKeys params must be positive integer <= {MAX_LIST}.")


class ObjectTooLarge(R2Error):
    def __init__(self) -> None:
        super().__init__(400, 100100, "Your proposed upload exceeds the maximum allowed object size.")


class PartTooSmall(R2Error):
    def __init__(self) -> None:
        super().__init__(400, 10011, "Your proposed upload is smaller than the minimum allowed object size.")


class MetadataTooLarge(R2Error):
    def __init__(self) -> None:
        super().__init__(400, 10012, "Your metadata headers exceed the maximum allowed metadata size.")


class NoSuchUpload(R2Error):
    def __init__(self) -> None:
        super().__init__(400, 10024, "The specified multipart upload does not exist.")


class InvalidPart(R2Error):
    def __init__(self) -> None:
        super().__init__(400, 10025, "One or more of the specified parts could not be found.")


class BadUpload(R2Error):
    def __init__(self) -> None:
        super().__init__(400, 10048, "There was a problem with the multipart upload.")


class BadDigest(R2Error):
    def __init__(self, algorithm: str) -> None:
        super().__init__(
            400, 10037, f"The {algorithm} checksum you specified did not match what we received."
        )


class InvalidRange(R2Error):
    def __init__(self) -> None:
        super().__init__(416, 10039, "The requested range is not satisfiable")


class PreconditionFailed(R2Error):
    """`stored` is the object that is there, None when there is none."""

    def __init__(self, stored: Stored | None) -> None:
        super().__init__(412, 10031, "At least one of the pre-conditions you specified did not hold.")
        self.stored = stored


@dataclass(frozen=True)
class Stored:
    """An object as its index knows it. `files` are its parts in order, with their sizes."""

    key: str
    version: str
    size: int
    etag: str
    uploaded_ms: int
    http: dict[str, Any]
    custom: dict[str, str]
    checksums: dict[str, str]
    storage_class: str
    files: Sequence[tuple[str, int]]


@dataclass(frozen=True)
class Attributes:
    """What goes with an object's bytes: HTTP fields, custom metadata, storage class; checked by `checked_attributes`."""

    http: dict[str, Any] = field(default_factory=dict)
    custom: dict[str, str] = field(default_factory=dict)
    storage_class: str = "Standard"


@dataclass(frozen=True)
class Etag:
    """One entity tag of a condition; a wildcard's value is None."""

    value: str | None
    is_weak: bool = False


@dataclass(frozen=True)
class Conditions:
    """If-Match, If-None-Match, If-Unmodified-Since (`before_ms`), If-Modified-Since (`after_ms`)."""

    matches: Sequence[Etag] | None = None
    does_not_match: Sequence[Etag] | None = None
    before_ms: int | None = None
    after_ms: int | None = None
    in_whole_seconds: bool = False

    def hold(self, stored: Stored | None) -> bool:
        """An entity tag's condition makes that of a date void, as RFC 9110 says; a missing object matches nothing."""
        if stored is None:
            return self.matches is None and self.after_ms is None
        if self.matches is not None:
            # If-Match compares strongly: a weak tag never matches.
            if not any(tag.value in (None, stored.etag) and not tag.is_weak for tag in self.matches):
                return False
        elif self.before_ms is not None and not self._time(stored.uploaded_ms) < self._time(self.before_ms):
            return False
        if self.does_not_match is not None:
            return not any(tag.value in (None, stored.etag) for tag in self.does_not_match)
        return self.after_ms is None or self._time(stored.uploaded_ms) > self._time(self.after_ms)

    def _time(self, milliseconds: int) -> int:
        return milliseconds // 1000 if self.in_whole_seconds else milliseconds


@dataclass(frozen=True)
class Range:
    """Part of an object: from `offset`, `length` bytes, or the last `suffix` bytes."""

    offset: int | None = None
    length: int | None = None
    suffix: int | None = None

    def resolve(self, size: int) -> tuple[int, int]:
        """Offset and length within `size` bytes. Raises InvalidRange."""
        if self.suffix is not None:
            if self.suffix <= 0:
                raise InvalidRange
            length = min(self.suffix, size)
            return size - length, length
        offset = self.offset or 0
        if offset > size or (self.length is not None and self.length <= 0) or (offset == size and size):
            raise InvalidRange
        return offset, size - offset if self.length is None else min(self.length, size - offset)


def range_from_header(header: str) -> Range | None:
    """A Range header's one range; None for what a server may ignore: several ranges, other units."""
    match = re.fullmatch(r"\s*bytes=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", header)
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return Range(suffix=int(last))
    if not last:
        return Range(offset=int(first))
    if int(last) < int(first):
        return None
    return Range(offset=int(first), length=int(last) - int(first) + 1)


def checked_key(key: Any) -> bytes:
    """An object's name as bytes. Raises InvalidObjectName."""
    if not isinstance(key, str) or not key:
        raise InvalidObjectName
    try:
        encoded = key.encode()
    except UnicodeEncodeError as exc:
        raise InvalidObjectName from exc
    if len(encoded) > MAX_KEY:
        raise InvalidObjectName
    return encoded


def checked_attributes(http: Any, custom: Any, storage_class: Any) -> Attributes:
    """Raises InvalidArgument, MetadataTooLarge."""
    if not isinstance(http, Mapping) or not isinstance(custom, Mapping):
        raise InvalidArgument("Metadata missing or invalid")
    if not all(isinstance(k, str) and isinstance(v, str) for k, v in custom.items()):
        raise InvalidArgument("custom metadata must be texts")
    fields: dict[str, Any] = {}
    for name in sorted(HTTP_FIELDS & http.keys()):
        value = http[name]
        if name == "cacheExpiry":
            fields[name] = _milliseconds(value)
        elif isinstance(value, str) and value.isprintable():
            fields[name] = value
        else:
            raise InvalidArgument(f"{name} must be a text without control characters")
    if (
        sum(len(k.encode(errors="replace")) + len(v.encode(errors="replace")) for k, v in custom.items())
        > MAX_METADATA
    ):
        raise MetadataTooLarge
    if sum(len(str(value)) for value in fields.values()) > MAX_METADATA:
        raise MetadataTooLarge
    if (storage_class or "Standard") not in STORAGE_CLASSES:
        raise InvalidArgument(f"storageClass must be one of {', '.join(sorted(STORAGE_CLASSES))}")
    return Attributes(fields, dict(custom), storage_class or "Standard")


def _milliseconds(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError) as exc:
        raise InvalidArgument("cacheExpiry must be a time in milliseconds") from exc
