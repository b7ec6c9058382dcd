"""Sessions as the control plane lists them, isolated by tenant."""

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

import smcp.common.ids
from smcp.common.tenancy import IsolateTenants

TABLES = ["hosting_session", "hosting_unlistedsessions"]
REFERENCES = [(table, "environment_id", "hosting_environment") for table in TABLES]


class Migration(migrations.Migration):
    dependencies = [
        ("hosting", "0009_remote"),
        ("tenants", "0002_isolation"),
    ]

    operations = [
        migrations.AddField(
            model_name="environment",
            name="sessions_after",
            field=models.PositiveBigIntegerField(default=0),
        ),
        migrations.CreateModel(
            name="UnlistedSessions",
            fields=[
                (
                    "id",
                    smcp.common.ids.UlidField(
                        default=smcp.common.ids.new_id,
                        editable=False,
                        max_length=26,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("count", models.PositiveIntegerField(default=0)),
                ("last_at", models.DateTimeField()),
                (
                    "environment",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="unlisted_sessions",
                        to="hosting.environment",
                    ),
                ),
                (
                    "tenant",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="tenants.tenant"
                    ),
                ),
            ],
            options={
                "ordering": ["id"],
            },
        ),
        migrations.CreateModel(
            name="Session",
            fields=[
                (
                    "id",
                    smcp.common.ids.UlidField(
                        default=smcp.common.ids.new_id,
                        editable=False,
                        max_length=26,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("handle", models.CharField(max_length=16)),
                (
                    "state",
                    models.CharField(
                        choices=[("open", "Open"), ("ended", "Ended"), ("expired", "Expired")],
                        default="open",
                        max_length=8,
                    ),
                ),
                ("principal", models.CharField(max_length=120)),
                ("client_name", models.CharField(blank=True, max_length=100)),
                ("client_version", models.CharField(blank=True, max_length=100)),
                ("protocol_version", models.CharField(blank=True, max_length=16)),
                ("opened_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("last_active_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("expires_at", models.DateTimeField()),
                ("ended_at", models.DateTimeField(blank=True, null=True)),
                ("ended_by", models.CharField(blank=True, max_length=120)),
                (
                    "environment",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="sessions",
                        to="hosting.environment",
                    ),
                ),
                (
                    "tenant",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="tenants.tenant"
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
                "indexes": [
                    models.Index(
                        fields=["tenant", "environment", "state", "-id"], name="session_of_environment"
                    ),
                    models.Index(
                        condition=models.Q(("state", "open")),
                        fields=["last_active_at"],
                        name="session_open_idle",
                    ),
                    models.Index(
                        condition=models.Q(("state", "open"), _negated=True),
                        fields=["ended_at"],
                        name="session_over",
                    ),
                    models.Index(
                        condition=models.Q(("state", "ended"), models.Q(("ended_by", ""), _negated=True)),
                        fields=["expires_at"],
                        name="session_ended_here",
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("tenant", "environment", "handle"), name="session_handle_once"
                    )
                ],
            },
        ),
        IsolateTenants(TABLES, REFERENCES),
    ]
