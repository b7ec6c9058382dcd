"""A strict reader of `multipart/form-data`. Django's own cleans file names down to their last segment; module names have folders.

Works on bytes that are already bounded. Source: RFC 7578, RFC 2046 section 5.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.errors import MessageError
from email.parser import BytesHeaderParser
from email.policy import HTTP
from typing import Final

from smcp.common.errors import Invalid

PARTS_MAX: Final = 260
HEADER_BYTES_MAX: Final = 4096
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
    headers = BytesHeaderParser(policy=HTTP).parsebytes(
        b"content-type: " + content_type.encode("ascii", "replace").replace(b"\n", b" ").replace(b"\r", b" ")
    )
    boundary = headers.get_boundary("")
    if headers.get_content_type() != "multipart/form-data" or not _BOUNDARY_RE.fullmatch(boundary):
        raise MultipartInvalid("Send multipart/form-data with a boundary.")
    return boundary.encode()


def _part(piece: bytes) -> Part:
    head, separator, content = piece.lstrip(b" \t").removeprefix(b"\r\n").partition(b"\r\n\r\n")
    if not separator or len(head) > HEADER_BYTES_MAX:
        raise MultipartInvalid("A part has no headers, or more than fit.")
    try:
        headers = BytesHeaderParser(policy=HTTP).parsebytes(head)
        disposition = headers["content-disposition"]
        parameters = disposition.params if disposition is not None else {}
        kind = disposition.content_disposition if disposition is not None else ""
    except (MessageError, ValueError, IndexError, AttributeError) as exc:
        raise MultipartInvalid("The headers of a part cannot be read.") from exc
    if kind != "form-data" or not parameters.get("name"):
        raise MultipartInvalid("Every part needs `content-disposition: form-data` with a name.")
    if headers.get("content-transfer-encoding", "binary").lower() not in {"binary", "8bit", "7bit"}:
        raise MultipartInvalid("Send parts as they are, without a transfer encoding.")
    return Part(
        name=str(parameters["name"]),
        filename=str(parameters.get("filename", "")),
        content_type=headers.get_content_type() if "content-type" in headers else "",
        content=content,
    )
