"""A strict reader of `multipart/form-data`. Django's own cleans file names down to their last segment; module names have folders.

Works on bytes that are already bounded. Source: RFC 7578, RFC 2046 section 5.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from django.utils.http import parse_header_parameters

from smcp.common.errors import Invalid

PARTS_MAX: Final = 260
HEADER_BYTES_MAX: Final = 1024
PARAMETERS_MAX: Final = 16  # of one header; reading them takes time in the square of their number
_TOKEN_RE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_BOUNDARY_RE = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")


class MultipartInvalid(Invalid):
    code = "multipart-invalid"
    title = "The body is not multipart/form-data"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part. `content_type` is "" when the client gave none."""

    name: str
    filename: str
    content_type: str
    content: bytes


def parse_multipart(*, content_type: str, body: bytes) -> list[Part]:
    """Raises MultipartInvalid."""
    delimiter = b"--" + _boundary(content_type)
    # A leading line break makes the first delimiter look like all others.
    pieces = (b"\r\n" + body).split(b"\r\n" + delimiter)
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise MultipartInvalid("The body does not end with its boundary.")
    if len(pieces) > PARTS_MAX + 2:
        raise MultipartInvalid(f"More than {PARTS_MAX} parts.")
    return [_part(piece) for piece in pieces[1:-1]]


def _boundary(content_type: str) -> bytes:
    kind, parameters = _parsed(content_type)
    boundary = parameters.get("boundary", "")
    if kind != "multipart/form-data" or not _BOUNDARY_RE.fullmatch(boundary):
        raise MultipartInvalid("Send multipart/form-data with a boundary.")
    return boundary.encode()


def _part(piece: bytes) -> Part:
    head, separator, content = piece.lstrip(b" \t").removeprefix(b"\r\n").partition(b"\r\n\r\n")
    if not separator:
        raise MultipartInvalid("A part has no headers.")
    headers = _headers(head)
    kind, parameters = _parsed(headers.get("content-disposition", ""))
    if kind != "form-data" or not parameters.get("name"):
        raise MultipartInvalid("Every part needs `content-disposition: form-data` with a name.")
    if headers.get("content-transfer-encoding", "binary").lower() not in {"binary", "8bit", "7bit"}:
        raise MultipartInvalid("Send parts as they are, without a transfer encoding.")
    return Part(
        name=parameters["name"],
        filename=parameters.get("filename", ""),
        content_type=headers.get("content-type", "").partition(";")[0].strip().lower(),
        content=content,
    )


def _headers(head: bytes) -> dict[str, str]:
    """Lower-case name → value."""
    if len(head) > HEADER_BYTES_MAX:
        raise MultipartInvalid(f"The headers of a part are longer than {HEADER_BYTES_MAX} bytes.")
    headers: dict[str, str] = {}
    for line in head.decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if not colon or not _TOKEN_RE.fullmatch(name) or name.lower() in headers:
            raise MultipartInvalid("The headers of a part cannot be read.")
        headers[name.lower()] = value.strip()
    return headers


def _parsed(value: str) -> tuple[str, dict[str, str]]:
    """`form-data; name="x"` → ("form-data", {"name": "x"})."""
    if len(value) > HEADER_BYTES_MAX or value.count(";") > PARAMETERS_MAX:
        raise MultipartInvalid(
            f"A header is longer than {HEADER_BYTES_MAX} bytes or has too many parameters."
        )
    try:
        return parse_header_parameters(value)
    except (ValueError, LookupError) as exc:  # an encoding nobody knows, or bytes that are not of it
        raise MultipartInvalid("The headers of a part cannot be read.") from exc
