"""Row-level security on everything tenants run, and foreign keys that cannot cross tenants."""

from django.db import migrations

from smcp.common.tenancy import IsolateTenants

TABLES = [
    "hosting_server",
    "hosting_environment",
    "hosting_version",
    "hosting_release",
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
]
REFERENCES = [
    ("hosting_environment", "server_id", "hosting_server"),
    ("hosting_version", "server_id", "hosting_server"),
    ("hosting_release", "environment_id", "hosting_environment"),
    ("hosting_release", "version_id", "hosting_version"),
    ("hosting_deployment", "environment_id", "hosting_environment"),
    ("hosting_deploymenttarget", "deployment_id", "hosting_deployment"),
    ("hosting_deploymenttarget", "release_id", "hosting_release"),
    ("hosting_resource", "environment_id", "hosting_environment"),
    ("hosting_binding", "environment_id", "hosting_environment"),
    ("hosting_binding", "resource_id", "hosting_resource"),
    ("hosting_secret", "environment_id", "hosting_environment"),
    ("hosting_operation", "server_id", "hosting_server"),
    ("hosting_operation", "environment_id", "hosting_environment"),
    ("hosting_step", "operation_id", "hosting_operation"),
    ("hosting_healthstate", "environment_id", "hosting_environment"),
    ("hosting_probe", "environment_id", "hosting_environment"),
    ("hosting_flip", "environment_id", "hosting_environment"),
    ("hosting_incident", "environment_id", "hosting_environment"),
    ("hosting_latencysample", "environment_id", "hosting_environment"),
]


class Migration(migrations.Migration):
    dependencies = [("hosting", "0002_initial"), ("tenants", "0002_isolation")]
    operations = [IsolateTenants(TABLES, REFERENCES)]
