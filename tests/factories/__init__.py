"""Rows for tests, one function a word of the design. Each makes one thing that holds together, and nothing it was not asked for.

Call them inside `as_system()`. Only what a test is about needs to be given; the rest is sensible and, where it must be,
unique. `at` is when a thing came to be: its id (a ULID) sorts by it.
"""

from tests.factories.happens import (
    DEPLOY_STEPS,
    make_flip,
    make_health,
    make_incident,
    make_latencies,
    make_operation,
    make_probe,
    make_session,
)
from tests.factories.ids import id_at
from tests.factories.runs import (
    BINDINGS,
    make_account,
    make_binding,
    make_deployment,
    make_environment,
    make_release,
    make_remote,
    make_resource,
    make_secret,
    make_server,
    make_version,
)
from tests.factories.who import PASSWORD, make_api_key, make_member, make_tenant, make_user

__all__ = [
    "BINDINGS",
    "DEPLOY_STEPS",
    "PASSWORD",
    "id_at",
    "make_account",
    "make_api_key",
    "make_binding",
    "make_deployment",
    "make_environment",
    "make_flip",
    "make_health",
    "make_incident",
    "make_latencies",
    "make_member",
    "make_operation",
    "make_probe",
    "make_release",
    "make_remote",
    "make_resource",
    "make_secret",
    "make_server",
    "make_session",
    "make_tenant",
    "make_user",
    "make_version",
]
