"""Cursors: where a listing goes on, as a text that says nothing to the client."""

from __future__ import annotations

import base64
import binascii


class BadCursor(ValueError):
    """Not one of ours."""


def encode_cursor(position: bytes) -> str:
    return base64.urlsafe_b64encode(position).rstrip(b"=").decode()


def decode_cursor(cursor: str) -> bytes:
    """Raises BadCursor."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error) as exc:
        raise BadCursor(cursor[:64]) from exc
