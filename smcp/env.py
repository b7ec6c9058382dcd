"""Everything SMCP reads from its environment, in one typed place. Nobody else looks at `os.environ`.

A missing value falls back to what fits one machine in development; a malformed one ends the start with one sentence.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent


class BadEnvironment(Exception):
    """A variable cannot be used. The message names it and never shows its value."""


def text(name: str, default: str = "") -> str:
    return os.environ.get(name, "") or default


def flag(name: str, default: bool = False) -> bool:
    return text(name, "1" if default else "0").lower() in {"1", "true", "yes", "on"}


def number(name: str, default: int) -> int:
    try:
        return int(text(name, str(default)))
    except ValueError as exc:
        raise BadEnvironment(f"{name} must be a whole number") from exc


@dataclass(frozen=True, kw_only=True)
class Database:
    """Where Postgres is, for one login."""

    name: str
    user: str
    password: str = field(repr=False)
    host: str
    port: str
    options: str = ""


def database(name: str) -> Database | None:
    """`postgresql://user:password@host:port/name` in variable `name`; None when unset. Raises BadEnvironment."""
    url = text(name)
    if not url:
        return None
    try:
        parts = urlsplit(url)
        port = str(parts.port or 5432)
    except ValueError as exc:
        raise BadEnvironment(f"{name} is not a URL") from exc
    if parts.scheme not in {"postgres", "postgresql"} or not parts.path.strip("/"):
        raise BadEnvironment(f"{name} must look like postgresql://user:password@host:port/database")
    return Database(
        name=unquote(parts.path.strip("/")),
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        host=unquote(parts.hostname or "127.0.0.1"),
        port=port,
    )
