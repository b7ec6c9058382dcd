"""Secrets at rest: AES-256-GCM envelopes under a key ring that can rotate.

`v1.<kid>.<base64url(wrapped data key)>.<base64url(nonce + ciphertext)>`. Every secret has a data key of its own, wrapped by
the ring's key, so rotating re-wraps without touching ciphertext. The context (tenant, object, name) is additional data:
an envelope copied to another row does not open.
"""

from __future__ import annotations

import base64
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings


class CannotOpen(Exception):
    """The envelope was made for something else, was altered, or its key is gone."""


def seal(secret: bytes, *, context: str) -> str:
    """Seals under the first key of SMCP_SEALING_KEYS. `context` must be given again to open."""
    kid, key = next(iter(settings.SEALING_KEYS.items()))
    data_key = AESGCM.generate_key(256)
    wrapped = _encrypt(key, data_key, f"v1.{kid}.{context}".encode())
    return f"v1.{kid}.{_b64(wrapped)}.{_b64(_encrypt(data_key, secret, context.encode()))}"


def open_sealed(envelope: str, *, context: str) -> bytes:
    """Raises CannotOpen."""
    try:
        version, kid, wrapped, body = envelope.split(".")
        if version != "v1":
            raise ValueError(version)
        data_key = _decrypt(settings.SEALING_KEYS[kid], _unb64(wrapped), f"v1.{kid}.{context}".encode())
        return _decrypt(data_key, _unb64(body), context.encode())
    except (ValueError, KeyError, InvalidTag) as exc:
        raise CannotOpen(f"cannot open the secret of {context}") from exc


def _encrypt(key: bytes, plain: bytes, aad: bytes) -> bytes:
    nonce = os.urandom(12)
    return nonce + AESGCM(key).encrypt(nonce, plain, aad)


def _decrypt(key: bytes, sealed: bytes, aad: bytes) -> bytes:
    return AESGCM(key).decrypt(sealed[:12], sealed[12:], aad)


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
