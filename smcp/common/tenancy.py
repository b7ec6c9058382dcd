"""Tenant isolation in the database: who a transaction acts for, and the row-level security that holds it to that.

Three database roles. `smcp_owner` owns the tables and runs migrations. `smcp_app` serves requests: row-level security
shows it one tenant's rows, the one named by `smcp.tenant` in this very transaction, and none when it is unset.
`smcp_system` (sweep, publisher, monitors, operators) has a policy that shows it all rows.

The API process logs in as `smcp_app`, which is no member of `smcp_system`, so nothing it runs can become the system. The
other processes log in as `smcp_system` and step down to `smcp_app` for work that belongs to one tenant.

Settings are always transaction-local: a pooled connection carries nothing over to its next user, and a crash half-way
rolls them back with everything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.db import connection, models, transaction
from django.db.migrations.operations.base import Operation

from smcp.common.ids import UlidField, is_id

if TYPE_CHECKING:
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor
    from django.db.migrations.state import ProjectState


class NotATenantId(ValueError):
    """A tenant id that is no ULID reached the database layer."""


@contextmanager
def as_tenant(tenant_id: str) -> Iterator[None]:
    """One transaction as `smcp_app`, seeing this tenant's rows only. Nests; the outer state comes back on leaving."""
    if not is_id(tenant_id):
        raise NotATenantId("not a tenant id")
    with _acting(role="smcp_app", tenant=tenant_id):
        yield


@contextmanager
def as_system() -> Iterator[None]:
    """One transaction as `smcp_system`, seeing every tenant. Fails in processes whose login is `smcp_app`."""
    with _acting(role="smcp_system", tenant=""):
        yield


@contextmanager
def as_operator() -> Iterator[None]:
    """One transaction that sees every Tenant row (not what belongs to them): for the platform's operators over REST."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT set_config('smcp.operator', 'on', true)")
        yield
        cursor.execute("SELECT set_config('smcp.operator', '', true)")


@contextmanager
def with_key_prefix(prefix: str) -> Iterator[None]:
    """One transaction that may also read the one key of this prefix: how a caller is found before its tenant is."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT set_config('smcp.key_prefix', %s, true)", [prefix])
        yield
        cursor.execute("SELECT set_config('smcp.key_prefix', '', true)")


@contextmanager
def _acting(*, role: str, tenant: str) -> Iterator[None]:
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_user, coalesce(current_setting('smcp.tenant', true), '')")
            outer_role, outer_tenant = cursor.fetchone()
            _set(cursor, role=role, tenant=tenant)
        yield
        # Only on success: an exception rolls the savepoint back, and these settings with it.
        with connection.cursor() as cursor:
            _set(cursor, role=outer_role, tenant=outer_tenant)


def _set(cursor: Any, *, role: str, tenant: str) -> None:
    cursor.execute("SELECT set_config('role', %s, true), set_config('smcp.tenant', %s, true)", [role, tenant])


class TenantModel(models.Model):
    """A table whose every row belongs to one tenant. Its migration must follow up with `IsolateTenants`."""

    id = UlidField(primary_key=True)
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.PROTECT, related_name="+")

    class Meta:
        abstract = True


class IsolateTenants(Operation):
    """Migration step: row-level security on tenant tables, and foreign keys that cannot cross tenants.

    `tables`: table names with a `tenant_id` column. `references`: (table, column, referenced table); each gets a composite
    foreign key `(tenant_id, column)` → `(tenant_id, id)`, deferred like Django's own.
    """

    reversible = True

    def __init__(self, tables: Sequence[str], references: Sequence[tuple[str, str, str]] = ()) -> None:
        self.tables = tables
        self.references = references

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        """Nothing Django's model state knows of."""

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: Any, to_state: Any
    ) -> None:
        for table in self.tables:
            schema_editor.execute(
                f"ALTER TABLE {table} ADD CONSTRAINT {table}_tenant_id_id_key UNIQUE (tenant_id, id)"
            )
            isolate(schema_editor, table, mine="tenant_id = current_setting('smcp.tenant', true)")
        for table, column, referenced in self.references:
            schema_editor.execute(
                f"ALTER TABLE {table} ADD CONSTRAINT {table}_{column}_same_tenant FOREIGN KEY (tenant_id, {column}) "
                f"REFERENCES {referenced} (tenant_id, id) DEFERRABLE INITIALLY DEFERRED"
            )

    def database_backwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: Any, to_state: Any
    ) -> None:
        for table, column, _ in self.references:
            schema_editor.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_{column}_same_tenant")
        for table in self.tables:
            schema_editor.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
            schema_editor.execute(f"DROP POLICY {table}_own_rows ON {table}")
            schema_editor.execute(f"DROP POLICY {table}_system ON {table}")
            schema_editor.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_tenant_id_id_key")

    def describe(self) -> str:
        return f"Isolate tenants in {', '.join(self.tables)}"


def isolate(schema_editor: BaseDatabaseSchemaEditor, table: str, *, mine: str) -> None:
    """Row-level security on one table: `smcp_app` sees and writes rows where `mine` holds, `smcp_system` all of them."""
    for statement in (
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY {table}_own_rows ON {table} TO smcp_app USING ({mine}) WITH CHECK ({mine})",
        f"CREATE POLICY {table}_system ON {table} TO smcp_system USING (true) WITH CHECK (true)",
    ):
        schema_editor.execute(statement)
