"""API keys as text: `smcp_<prefix>_<secret>`. The prefix finds the row, the secret (256 random bits) proves the holder.

Only the sha256 of the whole key is kept: against 256 random bits one plain hash is enough.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

_KEY_RE = re.compile(r"smcp_([a-z2-7]{12})_[A-Za-z0-9_-]{43}")
_PREFIX_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"


@dataclass(frozen=True)
class NewKey:
    """A key at the one moment when its text is known."""

    prefix: str
    digest: str
    text: str = field(repr=False)


def make_key() -> NewKey:
    prefix = "".join(secrets.choice(_PREFIX_LETTERS) for _ in range(12))
    text = f"smcp_{prefix}_{secrets.token_urlsafe(32)}"
    return NewKey(prefix=prefix, digest=digest_of(text), text=text)


def prefix_of(presented: str) -> str | None:
    """None for anything that cannot be a key of ours."""
    match = _KEY_RE.fullmatch(presented)
    return match[1] if match else None


def digest_of(presented: str) -> str:
    return hashlib.sha256(presented.encode()).hexdigest()


def is_same(presented: str, digest: str) -> bool:
    """Takes the same time whether they agree or not."""
    return hmac.compare_digest(digest_of(presented), digest)
