"""Row-level security on the audit trail and idempotency keys."""

from django.db import migrations

from smcp.common.tenancy import IsolateTenants


class Migration(migrations.Migration):
    dependencies = [("common", "0002_initial"), ("tenants", "0002_isolation")]
    operations = [IsolateTenants(["common_auditevent", "common_idempotentrequest"])]
