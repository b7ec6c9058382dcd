"""The keys and passwords of one installation, made once and kept in `var/secrets.json`, readable by its owner only.

Losing the file means losing what was sealed with its keys; it belongs in every back-up, apart from the data. A key that is
missing (the file is from an older release) is added; a key that is there is never changed. The file is replaced in one
step, so a crash leaves the old one or the new one.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from smcp.stack.errors import NotAllowed

INSTALLATION = re.compile(r"[a-z0-9]{1,12}")


def _password() -> str:
    return secrets.token_urlsafe(24)


def _key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")


def _keyring() -> str:
    return f"k1:{_key()}"


def _installation() -> str:
    return secrets.choice("abcdefghijklmnopqrstuvwxyz") + secrets.token_hex(3)


@dataclass(frozen=True, kw_only=True, repr=False)
class Secrets:
    """One field per secret. Key rings are `kid:base64url`, comma-separated; the first key seals or signs."""

    installation: str
    django_secret_key: str
    sealing_keys: str
    dataplane_keys: str
    dispatch_keys: str
    probe_key: str
    postgres_password: str
    owner_password: str
    app_password: str
    system_password: str
    redis_password: str
    edge_account_id: str
    edge_token: str
    operator_password: str
    operator_api_key: str = ""  # both set by the first start, once they exist
    demo_api_key: str = ""


GENERATORS: dict[str, Callable[[], str]] = {
    "installation": _installation,
    "django_secret_key": lambda: secrets.token_urlsafe(48),
    "sealing_keys": _keyring,
    "dataplane_keys": _keyring,
    "dispatch_keys": _keyring,
    "probe_key": _key,
    "postgres_password": _password,
    "owner_password": _password,
    "app_password": _password,
    "system_password": _password,
    "redis_password": _password,
    "edge_account_id": lambda: secrets.token_hex(16),
    "edge_token": lambda: secrets.token_urlsafe(32),
    "operator_password": lambda: secrets.token_urlsafe(12),
    "operator_api_key": lambda: "",
    "demo_api_key": lambda: "",
}


def new_secrets(**known: str) -> Secrets:
    """Fresh ones, except those `known`."""
    return Secrets(**{name: known.get(name) or generate() for name, generate in GENERATORS.items()})


def ensure_secrets(path: Path) -> Secrets:
    """Those in `path`, which is made or completed as needed. Raises NotAllowed when it is there and cannot be used."""
    known: dict[str, str] = {}
    if path.exists():
        try:
            known = {str(name): str(value) for name, value in json.loads(path.read_text()).items()}
        except (OSError, ValueError, AttributeError) as exc:
            raise NotAllowed(
                f"{path} cannot be read: restore it from a back-up, or move it away to start anew."
            ) from exc
    complete = new_secrets(
        **{field.name: known[field.name] for field in fields(Secrets) if field.name in known}
    )
    if not INSTALLATION.fullmatch(complete.installation):
        raise NotAllowed(f"`installation` in {path} must be 1 to 12 of a-z and 0-9.")
    if asdict(complete) != known:
        save_secrets(path, complete)
    path.chmod(0o600)
    return complete


def save_secrets(path: Path, values: Secrets) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(asdict(values), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
