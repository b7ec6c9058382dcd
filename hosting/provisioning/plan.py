"""What a deployment would do: which Releases it needs, which stand already, which Resources it would create. Reads, never writes.

Both the dry run and the first step of DEPLOY come from here, so they agree. Call inside `as_tenant` (or `as_system`).

DomainError
├── Invalid:   TargetsInvalid · NameTakenTwice
└── Conflict:  BindingChanged · SecretMissing · NoPercentages · MigrationBetween · NotDeployable · RunsElsewhere
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from hosting.cloudflare.port import ResourceKind
from hosting.models import Binding, Deployment, Environment, Release, Resource, Secret, Server, Version
from hosting.operations.rows import check_hosted
from smcp.common.errors import Conflict, Invalid, NotFound

#: Binding type of an upload → what we create for it.
RESOURCE_KINDS: Final = {
    "kv_namespace": ResourceKind.KV_NAMESPACE,
    "r2_bucket": ResourceKind.R2_BUCKET,
    "d1": ResourceKind.D1_DATABASE,
}
TARGETS_MAX: Final = 10
HUNDRED: Final = Decimal(100)


class TargetsInvalid(Invalid):
    code = "targets-invalid"
    title = "These targets cannot share the traffic"


class NameTakenTwice(Invalid):
    code = "binding-name-taken"
    title = "Two things would have the same name in the code's environment"


class BindingChanged(Conflict):
    code = "binding-changed"
    title = "A binding cannot change its type"


class SecretMissing(Conflict):
    code = "secret-missing"
    title = "A declared secret has no value here"


class NoPercentages(Conflict):
    code = "no-percentages"
    title = "Code with Durable Objects is deployed all at once"


class MigrationBetween(Conflict):
    code = "migration-between"
    title = "A Durable Object migration stands in the way"


class NotDeployable(Conflict):
    code = "not-deployable"
    title = "Nothing can be deployed here"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A Version's share of the traffic, in percent with at most two decimals."""

    version_id: str
    percentage: Decimal


@dataclass(frozen=True, kw_only=True)
class PlannedRelease:
    """`bindings` as a Release stores them; a Resource that is yet to be made is null there. `reuses`: the id of a Release that stands."""

    target: Target
    version_number: int
    bindings: Sequence[Mapping[str, Any]]
    reuses: str | None
    script_id: str | None  # the stable script's Resource, when the code is replaced in place
    migrations: Mapping[str, Any] | None  # what has yet to run


@dataclass(frozen=True, kw_only=True)
class NewResource:
    kind: ResourceKind
    binding: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`pivot`: the step behind which there is no way back. `is_rollback`: all of it has served here before."""

    releases: Sequence[PlannedRelease]
    new_resources: Sequence[NewResource]
    is_in_place: bool
    is_rollback: bool
    steps: Sequence[str]
    pivot: str


def check_targets(targets: Sequence[Target]) -> None:
    """Raises TargetsInvalid."""
    if not 1 <= len(targets) <= TARGETS_MAX:
        raise TargetsInvalid(f"Give between 1 and {TARGETS_MAX} versions.")
    if len({target.version_id for target in targets}) != len(targets):
        raise TargetsInvalid("Each version may be named once.")
    for target in targets:
        exponent = target.percentage.as_tuple().exponent
        if not target.percentage.is_finite() or not 0 < target.percentage <= 100:
            raise TargetsInvalid("A percentage is above 0 and at most 100.")
        if isinstance(exponent, int) and exponent < -2:
            raise TargetsInvalid("A percentage has at most two decimals.")
    if sum(target.percentage for target in targets) != HUNDRED:
        raise TargetsInvalid("The percentages must add up to 100.")


def plan_deploy(*, tenant_id: str, environment_id: str, targets: Sequence[Target]) -> Plan:
    """Raises what the head of this module lists, and NotFound."""
    check_targets(targets)
    environment = (
        Environment.objects.select_related("server").filter(tenant_id=tenant_id, id=environment_id).first()
    )
    if environment is None:
        raise NotFound("environment")
    _check_deployable(environment)
    versions = {
        version.id: version
        for version in Version.objects.filter(
            tenant_id=tenant_id, server_id=environment.server_id, id__in=[t.version_id for t in targets]
        )
    }
    for target in targets:
        if target.version_id not in versions:
            raise NotFound("version")
    stable = stable_script(environment)
    is_in_place = stable is not None or any(version.has_durable_objects for version in versions.values())
    if is_in_place and len(targets) > 1:
        raise NoPercentages(
            "Durable Objects belong to one script, so traffic cannot be split between versions. Deploy one version."
        )
    bound = {
        binding.name: binding
        for binding in Binding.objects.filter(tenant_id=tenant_id, environment=environment).select_related(
            "resource"
        )
    }
    secrets = dict(
        Secret.objects.filter(tenant_id=tenant_id, environment=environment, is_current=True)
        .order_by("name")
        .values_list("name", "revision")
    )
    releases = []
    new: dict[str, NewResource] = {}
    for target in targets:
        version = versions[target.version_id]
        bindings, missing = resolve_bindings(version, environment, bound, secrets)
        for resource in missing:
            known = new.setdefault(resource.binding, resource)
            if known.kind != resource.kind:
                raise BindingChanged(f"{resource.binding} has different types in the versions to deploy.")
        releases.append(_plan_release(environment, version, target, bindings, stable, is_in_place))
    pivot = "upload" if is_in_place and _serves(environment, stable) else "publish"
    if is_in_place and releases[0].reuses:
        pivot = "publish"
    return Plan(
        releases=releases,
        new_resources=list(new.values()),
        is_in_place=is_in_place,
        is_rollback=all(_has_served(environment, target.version_id) for target in targets),
        steps=_steps(versions.values()),
        pivot=pivot,
    )


def resolve_bindings(
    version: Version, environment: Environment, bound: Mapping[str, Binding], secrets: Mapping[str, int]
) -> tuple[list[dict[str, Any]], list[NewResource]]:
    """The Release's bindings, and the Resources that have yet to be made. Secrets by revision, never by value.

    An Environment's variables replace plain texts of the same name and are there besides; its secrets are all there.
    """
    resolved: dict[str, dict[str, Any]] = {}
    missing: list[NewResource] = []
    for declared in version.bindings:
        name, kind = declared["name"], RESOURCE_KINDS.get(declared["type"])
        if kind is not None:
            binding = bound.get(name)
            if binding is not None and binding.kind != kind:
                raise BindingChanged(
                    f"{name} is bound to a {binding.kind} here and cannot become a {kind}. Use another name."
                )
            if binding is None:
                missing.append(NewResource(kind=kind, binding=name))
            resource_id = binding.resource_id if binding else None
            resolved[name] = {"type": declared["type"], "name": name, "resource": resource_id}
        elif declared["type"] == "secret_text":
            if name not in secrets:
                raise SecretMissing(f"The code declares the secret {name}; put a value for it first.")
        else:
            resolved[name] = dict(declared)
    for name, text in environment.variables.items():
        if resolved.get(name, {"type": "plain_text"})["type"] not in {"plain_text", "json"}:
            raise NameTakenTwice(f"{name} is a variable of the environment and a binding of the code.")
        resolved[name] = {"type": "plain_text", "name": name, "text": text}
    for name, revision in secrets.items():
        if name in resolved:
            raise NameTakenTwice(f"{name} is a secret of the environment and also a variable or binding.")
        resolved[name] = {"type": "secret_text", "name": name, "revision": revision}
    return [resolved[name] for name in sorted(resolved)], missing


def inputs_digest(
    version: Version, environment: Environment, bindings: Sequence[Mapping[str, Any]], script_id: str | None
) -> str:
    """Two Releases with the same digest are the same script."""
    inputs = [version.id, bindings, sorted(environment.egress_allow), cpu_ms(version, environment), script_id]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def cpu_ms(version: Version, environment: Environment) -> int | None:
    """CPU time one request may take: the Environment's word, else the upload's, else Cloudflare's default."""
    value = environment.limits.get("cpu_ms") or version.limits.get("cpu_ms")
    return int(value) if value else None


def stable_script(environment: Environment) -> Resource | None:
    """The one script of an Environment whose code has, or once had, Durable Objects. None: every Release has its own."""
    scripts = Resource.objects.filter(
        environment=environment, kind=ResourceKind.SCRIPT, state=Resource.State.LIVE
    )
    return next((script for script in scripts if script.progress.get("is_stable")), None)


def migrations_to_run(version: Version, current_tag: str | None) -> Mapping[str, Any] | None:
    """What of a Version's Durable Object migrations has yet to run on a script at `current_tag`. Raises MigrationBetween."""
    wanted = version.migrations
    if not wanted:
        if current_tag is None:
            return None
        declared = list(
            Version.objects.filter(
                tenant_id=version.tenant_id, server_id=version.server_id, number__lt=version.number
            )
            .exclude(migrations=None)
            .order_by("-number")
            .values_list("migrations__new_tag", flat=True)[:1]
        )
        if declared and declared[0] != current_tag:
            raise MigrationBetween(_between(version, declared[0], current_tag))
        return None
    if wanted.get("new_tag") == current_tag:
        return None
    if wanted.get("old_tag") == current_tag:
        return dict(wanted)
    raise MigrationBetween(_between(version, wanted.get("new_tag"), current_tag))


def _between(version: Version, wanted: str | None, current: str | None) -> str:
    stands = f"migration {current}" if current else "no migration"
    return (
        f"Version {version.number} belongs to migration {wanted}, and the data here stands at {stands}. "
        "Migrations only go forward, one after the other."
    )


def _plan_release(
    environment: Environment,
    version: Version,
    target: Target,
    bindings: list[dict[str, Any]],
    stable: Resource | None,
    is_in_place: bool,
) -> PlannedRelease:
    current_tag = stable.progress.get("migration_tag") if stable else None
    migrations = migrations_to_run(version, current_tag) if is_in_place else None
    digest = inputs_digest(version, environment, bindings, stable.id if stable else None)
    standing = Release.objects.filter(
        tenant_id=environment.tenant_id,
        environment=environment,
        version=version,
        inputs_digest=digest,
        state=Release.State.VERIFIED,
    )
    return PlannedRelease(
        target=target,
        version_number=version.number,
        bindings=bindings,
        reuses=standing.values_list("id", flat=True).first(),
        script_id=stable.id if stable else None,
        migrations=migrations,
    )


def _check_deployable(environment: Environment) -> None:
    server = environment.server
    check_hosted(server)
    if server.state in {Server.State.RETIRING, Server.State.RETIRED}:
        raise NotDeployable("The server is retired.")
    if environment.state != Environment.State.ACTIVE:
        raise NotDeployable("The environment is retired.")


def _serves(environment: Environment, stable: Resource | None) -> bool:
    return (
        stable is not None
        and Deployment.objects.filter(
            environment=environment, is_active=True, targets__release__script_name=stable.name
        ).exists()
    )


def _has_served(environment: Environment, version_id: str) -> bool:
    return Deployment.objects.filter(
        environment=environment, targets__release__version_id=version_id
    ).exists()


def _steps(versions: Any) -> list[str]:
    declared = {binding["type"] for version in versions for binding in version.bindings}
    kinds = {
        "ensure_kv_namespaces": "kv_namespace",
        "ensure_r2_buckets": "r2_bucket",
        "ensure_d1_databases": "d1",
    }
    return [
        "choose_names",
        *(step for step, kind in kinds.items() if kind in declared),
        "upload",
        "probe",
        "publish",
        "drain",
        "remove_releases",
    ]
