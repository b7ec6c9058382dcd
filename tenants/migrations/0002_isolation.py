"""Row-level security: a tenant sees itself, its members and its keys. A key is also found by the prefix presented."""

from django.db import migrations

from smcp.common.tenancy import IsolateTenants, isolate

BY_PREFIX = "prefix = nullif(current_setting('smcp.key_prefix', true), '')"


def forwards(apps, schema_editor):
    isolate(
        schema_editor,
        "tenants_tenant",
        mine="id = current_setting('smcp.tenant', true) OR current_setting('smcp.operator', true) = 'on'",
    )
    isolate(schema_editor, "tenants_operatorkey", mine=BY_PREFIX)
    schema_editor.execute(
        f"CREATE POLICY tenants_apikey_by_prefix ON tenants_apikey FOR SELECT TO smcp_app USING ({BY_PREFIX})"
    )


def backwards(apps, schema_editor):
    schema_editor.execute("DROP POLICY tenants_apikey_by_prefix ON tenants_apikey")
    for table in ("tenants_operatorkey", "tenants_tenant"):
        schema_editor.execute(f"DROP POLICY {table}_own_rows ON {table}")
        schema_editor.execute(f"DROP POLICY {table}_system ON {table}")
        schema_editor.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")


class Migration(migrations.Migration):
    dependencies = [("tenants", "0001_initial")]
    operations = [
        IsolateTenants(["tenants_member", "tenants_apikey"]),
        migrations.RunPython(forwards, backwards),
    ]
