"""The logins and the database SMCP needs in a Postgres server, the embedded one or somebody's own.

`smcp_owner` owns the tables and migrates. `smcp_app` serves requests and never sees past row-level security. `smcp_system`
runs everything else and may step down to `smcp_app`. Who may do what with which table is written in the migrations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import LiteralString
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from smcp.stack.errors import StackError

OWNER, APP, SYSTEM = "smcp_owner", "smcp_app", "smcp_system"


@dataclass(frozen=True, kw_only=True)
class Logins:
    """Connection URLs, one per role."""

    owner: str = field(repr=False)
    app: str = field(repr=False)
    system: str = field(repr=False)


def ensure_database(admin_url: str, *, database: str, passwords: dict[str, str]) -> Logins:
    """Creates roles and database, sets `passwords` (by role), as a superuser. May run twice. Raises StackError."""
    try:
        with psycopg.connect(admin_url, autocommit=True, connect_timeout=5) as connection:
            _ensure_login(connection, OWNER, passwords[OWNER])
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone():
                connection.execute(_sql("CREATE DATABASE {} OWNER {}", database, OWNER))
            connection.execute(_sql("REVOKE ALL ON DATABASE {} FROM PUBLIC", database))
            _ensure_users(connection, database, passwords)
    except psycopg.Error as exc:
        raise StackError(f"The database cannot be prepared: {_first_line(exc)}.") from exc
    owner_url = login_url(admin_url, OWNER, passwords[OWNER], database)
    return _logins(owner_url, database, passwords)


def ensure_roles(owner_url: str, *, passwords: dict[str, str]) -> Logins:
    """The same in somebody else's server: the login of `owner_url` stays the owner and must be allowed to create roles."""
    database = urlsplit(owner_url).path.strip("/")
    try:
        with psycopg.connect(owner_url, autocommit=True, connect_timeout=5) as connection:
            _ensure_users(connection, database, passwords)
    except psycopg.Error as exc:
        raise StackError(
            f"The server in DATABASE_URL cannot be prepared: {_first_line(exc)}. Let its role create roles, or make "
            f"{APP} and {SYSTEM} yourself and set SMCP_APP_DATABASE_URL and SMCP_SYSTEM_DATABASE_URL."
        ) from exc
    return _logins(owner_url, database, passwords)


def login_url(url: str, user: str, password: str, database: str) -> str:
    """`url` with another login and database; host, port and options stay."""
    parts = urlsplit(url)
    address = parts.netloc.rpartition("@")[2]
    return urlunsplit(
        parts._replace(netloc=f"{user}:{quote(password, safe='')}@{address}", path=f"/{database}")
    )


def _logins(owner_url: str, database: str, passwords: dict[str, str]) -> Logins:
    return Logins(
        owner=owner_url,
        app=login_url(owner_url, APP, passwords[APP], database),
        system=login_url(owner_url, SYSTEM, passwords[SYSTEM], database),
    )


def _ensure_users(connection: psycopg.Connection, database: str, passwords: dict[str, str]) -> None:
    for role in (APP, SYSTEM):
        _ensure_login(connection, role, passwords[role])
        connection.execute(_sql("GRANT CONNECT ON DATABASE {} TO {}", database, role))
    connection.execute(_sql("GRANT {} TO {}", APP, SYSTEM))


def _ensure_login(connection: psycopg.Connection, role: str, password: str) -> None:
    if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
        connection.execute(_sql("CREATE ROLE {}", role))
    statement = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}")
    connection.execute(statement.format(sql.Identifier(role), sql.Literal(password)))


def _sql(statement: LiteralString, *names: str) -> sql.Composed:
    return sql.SQL(statement).format(*map(sql.Identifier, names))


def _first_line(error: psycopg.Error) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
