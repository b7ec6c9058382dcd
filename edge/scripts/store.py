"""Scripts and dispatch namespaces in the state file: one row per script, its Version as JSON in it.

A change is one transaction, so a reader sees the old script or the new one. `script_modules` says which module files a row
needs; a file without a row is rubbish (`edge/scripts/modules.py` removes it).
"""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from edge.scripts.model import Script, ScriptKey, now_text
from edge.state import State

COMPONENT = "scripts"
SLOT_BLOCK = 64
MIGRATIONS = (
    """
    CREATE TABLE dispatch_namespaces(
        account TEXT NOT NULL, name TEXT NOT NULL, id TEXT NOT NULL UNIQUE, created_at TEXT NOT NULL,
        modified_at TEXT NOT NULL, PRIMARY KEY(account, name)) WITHOUT ROWID;
    CREATE TABLE script_slots(slot INTEGER PRIMARY KEY AUTOINCREMENT);
    CREATE TABLE scripts(
        account TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, slot INTEGER NOT NULL UNIQUE,
        document BLOB NOT NULL, PRIMARY KEY(account, namespace, name)) WITHOUT ROWID;
    CREATE TABLE script_modules(
        slot INTEGER NOT NULL, digest TEXT NOT NULL, PRIMARY KEY(digest, slot)) WITHOUT ROWID;
    CREATE INDEX script_modules_by_slot ON script_modules(slot);
    """,
)


class NamespaceExists(Exception):
    """A dispatch namespace of that name is there already."""


@dataclass(frozen=True)
class DispatchNamespace:
    account: str
    name: str
    id: str
    created_at: str
    modified_at: str
    script_count: int


class ScriptStore:
    def __init__(self, state: State) -> None:
        self._state = state
        self._decoder = msgspec.json.Decoder(Script)
        self._slots: deque[int] = deque()
        self._reserving = asyncio.Lock()

    async def start(self) -> None:
        await self._state.ensure_schema(COMPONENT, MIGRATIONS)

    # Scripts

    async def find(self, key: ScriptKey) -> Script | None:
        row = await self._state.row(
            "SELECT document FROM scripts WHERE account=? AND namespace=? AND name=?", *key
        )
        return self._decoder.decode(row["document"]) if row else None

    async def list_all(self) -> list[Script]:
        """Every account's scripts: for the runtime only."""
        rows = await self._state.rows("SELECT document FROM scripts")
        return [self._decoder.decode(row["document"]) for row in rows]

    async def list_scripts(self, account: str, namespace: str) -> list[Script]:
        rows = await self._state.rows(
            "SELECT document FROM scripts WHERE account=? AND namespace=? ORDER BY name", account, namespace
        )
        return [self._decoder.decode(row["document"]) for row in rows]

    async def take_slot(self) -> int:
        """A slot nobody had before, also not a deleted script. Reserved in blocks; a crash wastes what is left of one."""

        def reserve(connection: sqlite3.Connection) -> int:
            connection.execute("INSERT INTO script_slots DEFAULT VALUES")
            connection.execute("DELETE FROM script_slots WHERE slot<(SELECT max(slot) FROM script_slots)")
            return int(connection.execute("SELECT max(slot) FROM script_slots").fetchone()[0])

        async with self._reserving:
            if not self._slots:
                first = (await self._state.write(reserve)) * SLOT_BLOCK
                self._slots.extend(range(first, first + SLOT_BLOCK))
            return self._slots.popleft()

    async def save(self, script: Script) -> list[str]:
        """Store the script in place of what was there; the digests of modules nobody needs any more."""
        document = msgspec.json.encode(script)
        digests = {module.digest for module in script.version.modules}

        def store(connection: sqlite3.Connection) -> list[str]:
            connection.execute(
                "INSERT INTO scripts VALUES(?,?,?,?,?) ON CONFLICT(account,namespace,name) "
                "DO UPDATE SET slot=excluded.slot, document=excluded.document",
                (*script.key, script.slot, document),
            )
            return _replace_modules(connection, script.slot, digests)

        return await self._state.write(store)

    async def delete(self, keys: Iterable[ScriptKey]) -> list[str]:
        """Delete the scripts that are there; the digests of modules nobody needs any more."""

        def remove(connection: sqlite3.Connection) -> list[str]:
            orphans: list[str] = []
            for key in keys:
                row = connection.execute(
                    "DELETE FROM scripts WHERE account=? AND namespace=? AND name=? RETURNING slot", key
                ).fetchone()
                if row is not None:
                    orphans += _replace_modules(connection, row["slot"], set())
            return orphans

        return await self._state.write(remove)

    async def all_digests(self) -> set[str]:
        return {row["digest"] for row in await self._state.rows("SELECT DISTINCT digest FROM script_modules")}

    # Dispatch namespaces

    async def create_namespace(self, account: str, name: str) -> DispatchNamespace:
        """Raises NamespaceExists."""
        now = now_text()
        namespace = DispatchNamespace(account, name, str(uuid.uuid4()), now, now, 0)
        created = await self._state.execute(
            "INSERT INTO dispatch_namespaces VALUES(?,?,?,?,?) ON CONFLICT DO NOTHING",
            account, name, namespace.id, now, now,
        )  # fmt: skip
        if not created:
            raise NamespaceExists(name)
        return namespace

    async def find_namespace(self, account: str, name: str) -> DispatchNamespace | None:
        found = await self._namespaces(account, name)
        return found[0] if found else None

    async def list_namespaces(self, account: str) -> list[DispatchNamespace]:
        return await self._namespaces(account)

    async def delete_namespace(self, account: str, name: str) -> bool:
        """Delete an empty namespace; False when there was none."""
        return bool(
            await self._state.execute(
                "DELETE FROM dispatch_namespaces WHERE account=? AND name=?", account, name
            )
        )

    async def _namespaces(self, account: str, name: str | None = None) -> list[DispatchNamespace]:
        rows = await self._state.rows(
            "SELECT *, (SELECT count(*) FROM scripts s WHERE s.account=n.account AND s.namespace=n.name) AS scripts "
            "FROM dispatch_namespaces n WHERE account=?1 AND (?2 IS NULL OR name=?2) ORDER BY name",
            account,
            name,
        )
        return [
            DispatchNamespace(
                row["account"], row["name"], row["id"], row["created_at"], row["modified_at"], row["scripts"]
            )
            for row in rows
        ]


def _replace_modules(connection: sqlite3.Connection, slot: int, digests: set[str]) -> list[str]:
    before = {
        row["digest"] for row in connection.execute("SELECT digest FROM script_modules WHERE slot=?", (slot,))
    }
    gone = before - digests
    connection.executemany(
        "DELETE FROM script_modules WHERE slot=? AND digest=?", [(slot, digest) for digest in gone]
    )
    connection.executemany(
        "INSERT OR IGNORE INTO script_modules VALUES(?,?)", [(slot, digest) for digest in digests]
    )
    return [
        digest
        for digest in gone
        if connection.execute("SELECT 1 FROM script_modules WHERE digest=?", (digest,)).fetchone() is None
    ]
