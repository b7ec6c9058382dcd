"""What the gateway gives to clients and wants back unchanged: AES-256-GCM under keys derived for one purpose each.

The form is `s1.<kid>.<base64url(nonce, ciphertext, tag)>`. The first key of the ring seals, all of them open, so a new key is
first added behind the old one on every node and then moved to the front. There is no key derivation on the hot path.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hosting.dataplane.contract import b64url, unb64url

FORM = "s1"
NONCE_BYTES = 12


class NotSealed(Exception):
    """Not a text this ring sealed for this purpose and context: forged, foreign, cut, or of a retired key."""


def derive_key(key: bytes, purpose: str, salt: bytes | None = None) -> bytes:
    """32 bytes for one purpose, and one `salt`. Keys of different ones tell nothing of each other (RFC 5869)."""
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=f"smcp/{purpose}".encode()).derive(key)


class Seal:
    """Seals and opens for one purpose. `context` (additional data) is not stored: the opener must know it."""

    def __init__(self, ring: Mapping[str, bytes], purpose: str) -> None:
        self._ciphers = {kid: AESGCM(derive_key(key, purpose)) for kid, key in ring.items()}
        self._kid = next(iter(ring))

    def seal(self, plain: bytes, context: bytes) -> str:
        nonce = os.urandom(NONCE_BYTES)
        sealed = nonce + self._ciphers[self._kid].encrypt(nonce, plain, context)
        return f"{FORM}.{self._kid}.{b64url(sealed)}"

    def open(self, text: str, context: bytes) -> bytes:
        """Raises NotSealed."""
        form, _, rest = text.partition(".")
        kid, _, encoded = rest.partition(".")
        cipher = self._ciphers.get(kid)
        if form != FORM or cipher is None:
            raise NotSealed
        try:
            sealed = unb64url(encoded)
            if b64url(sealed) != encoded:  # one session, one spelling: unused bits must be zero
                raise NotSealed
            return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)
        except (ValueError, InvalidTag) as exc:
            raise NotSealed from exc


class SaltedSeal:
    """Seals and opens bytes that stay on our side, under keys of their own for each `salt` (a session's secret, say).

    The form is one byte of length, the kid, nonce, ciphertext, tag. Making one costs a key derivation for each key of the ring.
    """

    def __init__(self, ring: Mapping[str, bytes], purpose: str, salt: bytes) -> None:
        self._ciphers = {kid.encode(): AESGCM(derive_key(key, purpose, salt)) for kid, key in ring.items()}
        self._kid = next(iter(self._ciphers))
        self._head = bytes((len(self._kid),)) + self._kid

    def seal(self, plain: bytes, context: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return self._head + nonce + self._ciphers[self._kid].encrypt(nonce, plain, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Raises NotSealed."""
        at = 1 + (sealed[0] if sealed else 0)
        cipher = self._ciphers.get(sealed[1:at])
        if cipher is None:
            raise NotSealed
        try:
            return cipher.decrypt(sealed[at : at + NONCE_BYTES], sealed[at + NONCE_BYTES :], context)
        except (ValueError, InvalidTag) as exc:
            raise NotSealed from exc
