"""Static files without a build step: served from the packages they came in, with the content's digest in the address.

The digest makes a browser that cached last week's script ask again after an upgrade, so files may be kept for long.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from django.contrib.staticfiles import finders
from django.contrib.staticfiles.storage import StaticFilesStorage


class FingerprintedStorage(StaticFilesStorage):
    """`url("a.css")` is `/static/a.css?v=1a2b3c4d`."""

    def url(self, name: str | None) -> str:
        plain = super().url(name)
        digest = _digest(name or "")
        return f"{plain}?v={digest}" if digest else plain


@cache
def _digest(name: str) -> str:
    found = finders.find(name)
    if not isinstance(found, str) or not Path(found).is_file():
        return ""
    return hashlib.sha256(Path(found).read_bytes()).hexdigest()[:8]
