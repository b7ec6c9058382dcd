"""Secrets of an Environment: written, never read back. A changed secret takes effect with the next Release, or at once where the
server runs elsewhere and a header says it.

Each value is a revision of its own, sealed under `secret:<tenant>:<environment>:<name>`; Releases name revisions.
"""

from __future__ import annotations

from django.db.models import Max

from hosting import policies
from hosting.elsewhere import HeadersUnusable, headers_of, names_in
from hosting.models import Remote, Secret
from hosting.models.resource import context_of
from hosting.operations.rows import check_again, lock_environment
from hosting.signals import tell_environment_changed
from smcp.common import audit
from smcp.common.errors import Conflict, Invalid, NotFound
from smcp.common.sealing import seal
from smcp.common.tenancy import as_tenant


class SecretInUse(Conflict):
    code = "secret-in-use"
    title = "The secret is in use"


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
        _tell_server_elsewhere(secret)
        return secret


def delete_secret(*, tenant_id: str, actor: str, environment_id: str, name: str) -> None:
    """The next Release is made without it; running ones keep theirs. Raises NotFound, EnvironmentGone, SecretInUse."""
    with as_tenant(tenant_id):
        lock_environment(tenant_id=tenant_id, environment_id=environment_id)
        secret = Secret.objects.filter(
            tenant_id=tenant_id, environment_id=environment_id, name=name, is_current=True
        ).first()
        if secret is None:
            raise NotFound("secret")
        remote = Remote.objects.filter(tenant_id=tenant_id, environment_id=environment_id).first()
        if remote is not None and name in names_in(remote):
            raise SecretInUse(f"A header of the server elsewhere says “{name}”. Change the headers first.")
        Secret.objects.filter(tenant_id=tenant_id, id=secret.id).update(is_current=False)
        _record(secret, actor, "secret.deleted")


def _tell_server_elsewhere(secret: Secret) -> None:
    """A header may say it: then it must be able to, and holds from now on. Raises Invalid."""
    remote = Remote.objects.filter(tenant_id=secret.tenant_id, environment_id=secret.environment_id).first()
    if remote is None or secret.name not in names_in(remote):
        return
    try:
        headers_of(remote)
    except HeadersUnusable as exc:
        raise Invalid(fields={"value": str(exc)}) from exc
    tell_environment_changed(secret.tenant_id, secret.environment_id)
    check_again(remote)


def _record(secret: Secret, actor: str, action: str) -> None:
    audit.record(
        tenant_id=secret.tenant_id,
        actor=actor,
        action=action,
        object_kind="secret",
        object_id=secret.id,
        detail={"name": secret.name, "revision": secret.revision, "environment": secret.environment_id},
    )
