"""Taking things away at Cloudflare, with the ledger ahead: `deleting` before the call, `deleted` after it.

What was only planned may exist all the same (the answer to its creation was lost), so it is looked up by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from django.utils import timezone

from hosting.cloudflare.errors import NotEmpty
from hosting.cloudflare.port import Cloudflare, Found, ResourceKind
from hosting.models import Resource
from hosting.provisioning.janitor import empty_bucket
from hosting.provisioning.steps import Run

GONE: Final = [Resource.State.DELETED]


def remove(run: Run, resource: Resource) -> None:
    """Deletes one Resource at Cloudflare and in the ledger. May run twice. Raises CloudflareError, NotYet."""
    with run.transaction():
        Resource.objects.filter(tenant_id=run.tenant_id, id=resource.id).exclude(state__in=GONE).update(
            state=Resource.State.DELETING
        )
    _REMOVERS[ResourceKind(resource.kind)](run, resource)
    with run.transaction():
        Resource.objects.filter(tenant_id=run.tenant_id, id=resource.id).update(
            state=Resource.State.DELETED, deleted_at=timezone.now()
        )


def _remove_script(run: Run, resource: Resource) -> None:
    run.cloudflare(resource.account_id).delete_script(resource.name)


def _remove_kv_namespace(run: Run, resource: Resource) -> None:
    cloudflare = run.cloudflare(resource.account_id)
    for found_id in _ids(resource, cloudflare.list_kv_namespaces):
        cloudflare.delete_kv_namespace(found_id)


def _remove_d1_database(run: Run, resource: Resource) -> None:
    cloudflare = run.cloudflare(resource.account_id)
    for found_id in _ids(resource, cloudflare.list_d1_databases):
        cloudflare.delete_d1_database(found_id)


def _remove_r2_bucket(run: Run, resource: Resource) -> None:
    cloudflare: Cloudflare = run.cloudflare(resource.account_id)
    if "janitor_at" not in resource.progress:
        try:
            cloudflare.delete_r2_bucket(resource.name)
            return
        except NotEmpty:
            pass
    empty_bucket(run, resource)
    cloudflare.delete_r2_bucket(resource.name)


def _ids(resource: Resource, list_all: Callable[[], Iterator[Found]]) -> list[str]:
    if resource.cloudflare_id:
        return [resource.cloudflare_id]
    return [found.id for found in list_all() if found.name == resource.name]


_REMOVERS: Final[Mapping[ResourceKind, Callable[[Run, Resource], None]]] = {
    ResourceKind.SCRIPT: _remove_script,
    ResourceKind.KV_NAMESPACE: _remove_kv_namespace,
    ResourceKind.D1_DATABASE: _remove_d1_database,
    ResourceKind.R2_BUCKET: _remove_r2_bucket,
}
