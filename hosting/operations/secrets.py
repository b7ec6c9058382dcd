"""Secrets of an Environment: written, never read back. A changed secret takes effect with the next Release.

Each value is a revision of its own, sealed under `secret:<tenant>:<environment>:<name>`; Releases name revisions.
"""

from __future__ import annotations

from django.db.models import Max

from hosting import policies
from hosting.models import Secret
from hosting.operations.rows import lock_environment
from smcp.common import audit
from smcp.common.errors import Invalid, NotFound
from smcp.common.sealing import seal
from smcp.common.tenancy import as_tenant


def put_secret(*, tenant_id: str, actor: str, environment_id: str, name: str, value: str) -> Secret:
    """A new revision, current from now on. Raises NotFound, EnvironmentGone, Invalid."""
    policies.check_secret(name, value)
    with as_tenant(tenant_id):
        lock_environment(tenant_id=tenant_id, environment_id=environment_id)
        revisions = Secret.objects.filter(tenant_id=tenant_id, environment_id=environment_id, name=name)
        is_new_name = not revisions.filter(is_current=True).exists()
        current = Secret.objects.filter(tenant_id=tenant_id, environment_id=environment_id, is_current=True)
        if is_new_name and current.count() >= policies.VARIABLES_MAX:
            raise Invalid(fields={"name": f"An environment holds at most {policies.VARIABLES_MAX} secrets."})
        last = revisions.aggregate(last=Max("revision"))["last"] or 0
        revisions.update(is_current=False)
        secret = Secret.objects.create(
            tenant_id=tenant_id,
            environment_id=environment_id,
            name=name,
            revision=last + 1,
            sealed=seal(value.encode(), context=context_of(tenant_id, environment_id, name)),
            created_by=actor,
        )
        _record(secret, actor, "secret.put")
        return secret


def delete_secret(*, tenant_id: str, actor: str, environment_id: str, name: str) -> None:
    """The next Release is made without it; running ones keep theirs. Raises NotFound, EnvironmentGone."""
    with as_tenant(tenant_id):
        lock_environment(tenant_id=tenant_id, environment_id=environment_id)
        secret = Secret.objects.filter(
            tenant_id=tenant_id, environment_id=environment_id, name=name, is_current=True
        ).first()
        if secret is None:
            raise NotFound("secret")
        Secret.objects.filter(tenant_id=tenant_id, id=secret.id).update(is_current=False)
        _record(secret, actor, "secret.deleted")


def context_of(tenant_id: str, environment_id: str, name: str) -> str:
    """What the value is sealed for: an envelope copied elsewhere does not open."""
    return f"secret:{tenant_id}:{environment_id}:{name}"


def _record(secret: Secret, actor: str, action: str) -> None:
    audit.record(
        tenant_id=secret.tenant_id,
        actor=actor,
        action=action,
        object_kind="secret",
        object_id=secret.id,
        detail={"name": secret.name, "revision": secret.revision, "environment": secret.environment_id},
    )
