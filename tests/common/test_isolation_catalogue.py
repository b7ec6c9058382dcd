"""What Postgres itself says about the walls between tenants: every table, also one that nobody has written a test for yet.

Read from the catalogue of a migrated database, not from the models: a table counts as a tenant's when it has a `tenant_id`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.apps import apps

from smcp.common.grants import APP_COLUMNS, APP_TABLES, APPEND_ONLY
from smcp.common.tenancy import TenantModel
from tests.parts import Parts

#: Isolated, but without a `tenant_id`: the tenant itself, and the keys of operators, of whom a caller sees only the one it presents.
BY_OTHER_MEANS = {"tenants_tenant", "tenants_operatorkey"}
#: Whose `tenant_id` may be null (docs/decisions/0005): a request of an operator that concerns no tenant, as creating one.
WITHOUT_TENANT = {"common_idempotentrequest"}
#: Policies that show `smcp_app` rows by something else than the tenant of the transaction (docs/decisions/0005).
OTHER_POLICIES = {
    "tenants_tenant_own_rows",
    "tenants_operatorkey_own_rows",
    "tenants_apikey_by_prefix",
}
OF_THE_TENANT = "((tenant_id)::text = current_setting('smcp.tenant'::text, true))"
OF_NO_TENANT = "((tenant_id IS NULL) AND (current_setting('smcp.operator'::text, true) = 'on'::text))"


@pytest.fixture
def catalogue(postgres: object, parts: Parts) -> Iterator[psycopg.Connection]:
    with psycopg.connect(parts.places.logins.owner) as owner:
        yield owner


def rows(catalogue: psycopg.Connection, query: str) -> list[tuple[Any, ...]]:
    return catalogue.execute(query).fetchall()


def tenant_tables(catalogue: psycopg.Connection) -> set[str]:
    query = """
        SELECT table_name FROM information_schema.columns
        JOIN information_schema.tables USING (table_schema, table_name)
        WHERE table_schema = 'public' AND column_name = 'tenant_id' AND table_type = 'BASE TABLE'
    """
    return {name for (name,) in rows(catalogue, query)}


def granted(catalogue: psycopg.Connection, view: str) -> dict[str, set[str]]:
    """Table → what `smcp_app` (or everybody) may do with it, or with a column of it."""
    found: dict[str, set[str]] = {}
    query = f"""
        SELECT table_name, privilege_type FROM information_schema.{view}
        WHERE table_schema = 'public' AND grantee IN ('smcp_app', 'PUBLIC')
    """
    for table, privilege in rows(catalogue, query):
        found.setdefault(table, set()).add(privilege)
    return found


def test_every_tenant_model_is_a_table_with_a_tenant(catalogue: psycopg.Connection) -> None:
    ours = {model._meta.db_table for model in apps.get_models() if issubclass(model, TenantModel)}
    assert len(ours) > 15
    assert ours <= tenant_tables(catalogue)


def test_no_row_is_without_a_tenant(catalogue: psycopg.Connection) -> None:
    query = """
        SELECT table_name FROM information_schema.columns
        WHERE table_schema = 'public' AND column_name = 'tenant_id' AND is_nullable = 'YES'
    """
    assert {name for (name,) in rows(catalogue, query)} == WITHOUT_TENANT


def test_row_level_security_holds_on_every_tenant_table_and_for_its_owner_too(
    catalogue: psycopg.Connection,
) -> None:
    query = """
        SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
        AND relrowsecurity AND relforcerowsecurity
    """
    assert {name for (name,) in rows(catalogue, query)} == tenant_tables(catalogue) | BY_OTHER_MEANS


def test_every_policy_of_the_app_asks_for_the_tenant(catalogue: psycopg.Connection) -> None:
    query = "SELECT tablename, policyname, roles::text[], qual, with_check FROM pg_policies WHERE schemaname = 'public'"
    asking = set()
    for table, policy, roles, qual, check in rows(catalogue, query):
        if roles == ["smcp_system"]:
            continue
        assert roles == ["smcp_app"], policy
        if policy not in OTHER_POLICIES:
            rule = f"({OF_THE_TENANT} OR {OF_NO_TENANT})" if table in WITHOUT_TENANT else OF_THE_TENANT
            assert (qual, check) == (rule, rule), policy
            asking.add(table)
    assert asking == tenant_tables(catalogue)


def test_no_foreign_key_can_cross_from_one_tenant_to_another(catalogue: psycopg.Connection) -> None:
    query = """
        SELECT conrelid::regclass::text, confrelid::regclass::text, convalidated,
            (SELECT array_agg(attname::text ORDER BY position) FROM unnest(conkey) WITH ORDINALITY AS k(number, position)
                JOIN pg_attribute ON attrelid = conrelid AND attnum = number),
            (SELECT array_agg(attname::text ORDER BY position) FROM unnest(confkey) WITH ORDINALITY AS k(number, position)
                JOIN pg_attribute ON attrelid = confrelid AND attnum = number)
        FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace
    """
    tenants = tenant_tables(catalogue)
    single, composite = set(), set()
    for table, referenced, is_valid, columns, to in rows(catalogue, query):
        if table not in tenants or referenced not in tenants:
            continue
        if "tenant_id" in columns:
            assert is_valid
            assert (columns[0], to) == ("tenant_id", ["tenant_id", "id"])
            composite.add((table, columns[1], referenced))
        else:
            single.add((table, *columns, referenced))
    assert len(single) > 15
    assert single == composite


def test_no_role_of_ours_passes_by_row_level_security(catalogue: psycopg.Connection) -> None:
    query = "SELECT rolname, rolsuper, rolbypassrls FROM pg_roles WHERE rolname LIKE 'smcp\\_%'"
    assert sorted(rows(catalogue, query)) == [
        (name, False, False) for name in ("smcp_app", "smcp_owner", "smcp_system")
    ]
    owners = rows(catalogue, "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
    assert owners == [("smcp_owner",)]


def test_what_the_app_is_granted_is_what_is_isolated(catalogue: psycopg.Connection) -> None:
    """Neither a tenant's table it was forgotten to grant, nor a grant on a table without a wall."""
    assert set(APP_TABLES) | set(APPEND_ONLY) == tenant_tables(catalogue) | {"tenants_tenant"}
    whole = granted(catalogue, "role_table_grants")
    everything = {"SELECT", "INSERT", "UPDATE", "DELETE"}
    assert whole == {
        **dict.fromkeys(APP_TABLES, everything),
        **{table: {"SELECT", "INSERT"} for table in APPEND_ONLY},
    }
    in_part = {
        table: may for table, may in granted(catalogue, "role_column_grants").items() if table not in whole
    }
    assert in_part == {table: {"SELECT"} for table in APP_COLUMNS}
