"""What each database role may do with each table. Applied after every `migrate`, as the owner; running twice is harmless.

`smcp_system` may do everything but change the past. `smcp_app` gets what the REST API needs, column by column where a
table holds more than that.
"""

from __future__ import annotations

from typing import Any

from django.db import connections

#: Rows here are only ever added.
APPEND_ONLY = ("common_auditevent",)

#: Tables `smcp_app` uses in full; row-level security narrows them to one tenant.
APP_TABLES = (
    "common_idempotentrequest",
    "tenants_tenant",
    "tenants_member",
    "tenants_apikey",
    "hosting_server",
    "hosting_environment",
    "hosting_version",
    "hosting_release",
    "hosting_remote",
    "hosting_deployment",
    "hosting_deploymenttarget",
    "hosting_resource",
    "hosting_binding",
    "hosting_secret",
    "hosting_operation",
    "hosting_step",
    "hosting_healthstate",
    "hosting_probe",
    "hosting_flip",
    "hosting_incident",
    "hosting_latencysample",
    "hosting_session",
    "hosting_unlistedsessions",
)

#: Tables of the platform `smcp_app` reads in part: never the password, never the token.
APP_COLUMNS = {
    "tenants_user": "id, email, first_name, last_name, is_active",
    "tenants_operatorkey": "id, name, prefix, digest, expires_at, revoked_at, created_at",
    "hosting_account": (
        "id, name, cloudflare_account_id, dispatch_namespace, dispatch_url, dispatch_host, state, capacity, ready_at, created_at"
    ),
}


def apply_grants(using: str = "default", **_: Any) -> None:
    """Idempotent. Does nothing for a login that owns no tables (a check run as another role)."""
    connection = connections[using]
    existing = set(connection.introspection.table_names())
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_roles WHERE rolname IN ('smcp_app', 'smcp_system')")
        if cursor.fetchone()[0] != 2 or not existing.issuperset(APP_TABLES):
            return
        cursor.execute("GRANT USAGE ON SCHEMA public TO smcp_app, smcp_system")
        cursor.execute("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO smcp_system")
        cursor.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO smcp_system")
        for table in APP_TABLES:
            cursor.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO smcp_app")
        for table, columns in APP_COLUMNS.items():
            cursor.execute(f"GRANT SELECT ({columns}) ON {table} TO smcp_app")
        for table in APPEND_ONLY:
            cursor.execute(f"REVOKE UPDATE, DELETE ON {table} FROM smcp_system")
            cursor.execute(f"GRANT SELECT, INSERT ON {table} TO smcp_app")
