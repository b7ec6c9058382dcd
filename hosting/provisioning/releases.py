"""Releases as the steps of DEPLOY need them: which are new, which are superfluous, and one as an upload. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from hosting.cloudflare.port import Module, ResourceKind, ScriptUpload
from hosting.models import Deployment, DeploymentTarget, Environment, Release, Resource, Secret
from hosting.models.resource import context_of
from hosting.provisioning.plan import RESOURCE_KINDS, cpu_ms
from hosting.provisioning.steps import Run, StepFailed
from smcp.common.blobs import BlobMissing, get_blob
from smcp.common.sealing import CannotOpen, open_sealed


def new_releases(run: Run) -> list[Release]:
    """The Releases this Operation makes (reused ones were there before). Call inside a transaction."""
    ids = [entry["id"] for entry in run.context.get("releases", ()) if entry["is_new"]]
    return list(
        Release.objects.filter(tenant_id=run.tenant_id, id__in=ids)
        .select_related("version", "environment")
        .order_by("number")
    )


def script_of(run: Run, release: Release) -> Resource:
    """The ledger row of the script a Release runs as."""
    return Resource.objects.get(tenant_id=run.tenant_id, kind=ResourceKind.SCRIPT, name=release.script_name)


def surplus_releases(run: Run) -> list[Release]:
    """Releases that do not serve, beyond the newest `releases_kept` of them. Call inside a transaction."""
    environment = Environment.objects.get(tenant_id=run.tenant_id, id=run.environment_id)
    idle = (
        Release.objects.filter(tenant_id=run.tenant_id, environment=environment)
        .exclude(state=Release.State.REMOVED)
        .exclude(
            id__in=DeploymentTarget.objects.filter(
                tenant_id=run.tenant_id,
                deployment__environment=environment,
                deployment__is_active=True,
            ).values("release_id")
        )
        .order_by("-number")
    )
    stable = Resource.objects.filter(
        environment=environment, kind=ResourceKind.SCRIPT, progress__is_stable=True
    ).values("name")
    return list(idle.exclude(script_name__in=stable)[environment.releases_kept :])


def lost_traffic_at(run: Run, release: Release) -> datetime:
    """When the Deployment after its last one began; when it never served, when it was made."""
    last = (
        DeploymentTarget.objects.filter(tenant_id=run.tenant_id, release=release)
        .order_by("-deployment__number")
        .values_list("deployment__number", flat=True)
        .first()
    )
    following = (
        Deployment.objects.filter(
            tenant_id=run.tenant_id, environment_id=release.environment_id, number=(last or 0) + 1
        )
        .values_list("created_at", flat=True)
        .first()
    )
    return (following if last else None) or release.created_at


def compose_upload(release: Release, *, migrations: Mapping[str, Any] | None) -> ScriptUpload:
    """The Release as an upload, secrets opened. Call inside a transaction; keep the result out of every log.

    Raises StepFailed when the code or a secret cannot be read.
    """
    version, environment = release.version, release.environment
    try:
        modules = [
            Module(
                name=module["name"],
                content_type=module["content_type"],
                content=get_blob(release.tenant_id, module["digest"]),
            )
            for module in version.modules
        ]
        bindings = [_binding_for_upload(release, binding) for binding in release.bindings]
    except BlobMissing as exc:
        raise StepFailed("code-missing", f"The code of version {version.number} cannot be read.") from exc
    except CannotOpen as exc:
        raise StepFailed("secret-unreadable", "A secret of the environment cannot be opened.") from exc
    return ScriptUpload(
        main_module=version.main_module,
        modules=modules,
        compatibility_date=version.compatibility_date.isoformat(),
        compatibility_flags=version.compatibility_flags,
        bindings=bindings,
        migrations=migrations,
        cpu_ms=cpu_ms(version, environment),
        tags=[
            f"tenant-{release.tenant_id}",
            f"environment-{environment.id}",
            f"stage-{environment.slug}",
        ],
        egress=release.egress_allow,
    )


def _binding_for_upload(release: Release, binding: Mapping[str, Any]) -> dict[str, Any]:
    kind, name = binding["type"], binding["name"]
    if kind in RESOURCE_KINDS:
        resource = Resource.objects.get(tenant_id=release.tenant_id, id=binding["resource"])
        reference = {"kv_namespace": "namespace_id", "r2_bucket": "bucket_name", "d1": "id"}[kind]
        return {"type": kind, "name": name, reference: resource.cloudflare_id}
    if kind == "secret_text":
        secret = Secret.objects.get(
            tenant_id=release.tenant_id,
            environment_id=release.environment_id,
            name=name,
            revision=binding["revision"],
        )
        context = context_of(release.tenant_id, release.environment_id, name)
        return {"type": kind, "name": name, "text": open_sealed(secret.sealed, context=context).decode()}
    return dict(binding)
