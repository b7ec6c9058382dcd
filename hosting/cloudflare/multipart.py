"""An upload as Cloudflare's API wants it, byte for byte as `wrangler` shapes it: one `metadata` part (JSON, no content type), then
one part a module, named and "filed" under the module's name.

Source: https://developers.cloudflare.com/workers/configuration/multipart-upload-metadata/
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from hosting.cloudflare.port import ScriptUpload


def metadata_of(upload: ScriptUpload) -> dict[str, Any]:
    """The `metadata` part. `egress` is ours: Cloudflare ignores keys it does not know, the local edge enforces it."""
    metadata: dict[str, Any] = {
        "main_module": upload.main_module,
        "bindings": [dict(binding) for binding in upload.bindings],
        "compatibility_date": upload.compatibility_date,
        "compatibility_flags": list(upload.compatibility_flags),
    }
    if upload.migrations is not None:
        metadata["migrations"] = dict(upload.migrations)
    if upload.cpu_ms is not None:
        metadata["limits"] = {"cpu_ms": upload.cpu_ms}
    if upload.tags:
        metadata["tags"] = list(upload.tags)
    if upload.egress is not None:
        metadata["egress"] = {"allow": list(upload.egress)}
    return metadata


def encode(upload: ScriptUpload) -> tuple[bytes, str]:
    """The body and its content type. Built whole: an upload is bounded by Cloudflare's 10 MB."""
    boundary = "smcp-" + secrets.token_hex(16)
    parts = [
        _part(boundary, 'name="metadata"', None, json.dumps(metadata_of(upload)).encode()),
        *(
            _part(
                boundary,
                f'name="{_quoted(m.name)}"; filename="{_quoted(m.name)}"',
                m.content_type,
                m.content,
            )
            for m in upload.modules
        ),
        f"--{boundary}--\r\n".encode(),
    ]
    return b"".join(parts), f"multipart/form-data; boundary={boundary}"


def _part(boundary: str, disposition: str, content_type: str | None, content: bytes) -> bytes:
    typed = f"Content-Type: {_one_line(content_type)}\r\n" if content_type else ""
    head = f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n{typed}\r\n"
    return head.encode() + content + b"\r\n"


def _quoted(name: str) -> str:
    # As browsers and wrangler's FormData do it: https://html.spec.whatwg.org/#multipart-form-data
    return name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")


def _one_line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ")
