"""Whether a database already has the tables this checkout wants, without loading Django to find out.

The database carries a mark: a digest of everything that decides what `migrate` would do. It travels with the data, so a
restored backup is migrated again.
"""

from __future__ import annotations

import hashlib

import psycopg
from psycopg import sql

from smcp.stack.errors import StackError
from smcp.stack.install import ROOT

PREFIX = "migrated to "


def digest() -> str:
    """Of our migrations and grants, and of the pinned packages, which bring migrations of their own."""
    paths = [ROOT / "requirements.txt", ROOT / "smcp/common/grants.py", *ROOT.glob("*/migrations/*.py")]
    paths += ROOT.glob("smcp/*/migrations/*.py")
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(str(path.relative_to(ROOT)).encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def get_mark(owner_url: str) -> str:
    """The digest of the last migration; empty when there was none. Raises StackError."""
    query = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()"
    try:
        with psycopg.connect(owner_url, connect_timeout=5) as connection:
            row = connection.execute(query).fetchone()
    except psycopg.Error as exc:
        raise StackError("The database cannot be asked what it holds.") from exc
    comment = str(row[0] or "") if row else ""
    return comment.removeprefix(PREFIX) if comment.startswith(PREFIX) else ""


def set_mark(owner_url: str, mark: str) -> None:
    """Raises StackError."""
    try:
        with psycopg.connect(owner_url, connect_timeout=5) as connection:
            database = sql.Identifier(connection.info.dbname)
            connection.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(database, PREFIX + mark))
    except psycopg.Error as exc:
        raise StackError("The database cannot be told what it holds.") from exc
