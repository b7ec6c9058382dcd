"""Kept answers are sealed, and the platform's operators have idempotency keys of their own, outside any tenant."""

import django.db.models.deletion
from django.db import migrations, models

TABLE = "common_idempotentrequest"
OWN = "tenant_id = current_setting('smcp.tenant', true)"
OPERATORS = "(tenant_id IS NULL AND current_setting('smcp.operator', true) = 'on')"


class Migration(migrations.Migration):
    dependencies = [("common", "0003_isolation")]
    operations = [
        migrations.RemoveField("idempotentrequest", "status"),
        migrations.RemoveField("idempotentrequest", "body"),
        migrations.AddField("idempotentrequest", "answer_sealed", models.TextField(null=True)),
        migrations.AlterField(
            "idempotentrequest",
            "tenant",
            models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.CASCADE, related_name="+", to="tenants.tenant"
            ),
        ),
        migrations.RemoveConstraint("idempotentrequest", "idempotency_key_once"),
        migrations.AddConstraint(
            "idempotentrequest",
            models.UniqueConstraint(
                fields=["tenant", "principal", "key"], name="idempotency_key_once", nulls_distinct=False
            ),
        ),
        migrations.RunSQL(
            f"ALTER POLICY {TABLE}_own_rows ON {TABLE} USING ({OWN} OR {OPERATORS}) WITH CHECK ({OWN} OR {OPERATORS})",
            f"ALTER POLICY {TABLE}_own_rows ON {TABLE} USING ({OWN}) WITH CHECK ({OWN})",
        ),
    ]
