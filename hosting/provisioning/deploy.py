"""DEPLOY: choose names · ensure declared Resources · upload · wait for the first answer · **publish the Route** · drain · remove older
Releases.

Every name is chosen in the first step, in one transaction with the rows that bear it, so all later steps can be repeated and
whatever a crash leaves at Cloudflare is in the ledger. Publishing is the pivot; where Durable Objects make us replace serving
code in place, uploading is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar, Final

import redis
from django.conf import settings
from django.db.models import F, Max
from django.utils import timezone

from hosting import names, routing
from hosting.cloudflare.port import Found, Module, ResourceKind, ScriptUpload
from hosting.models import (
    Binding,
    Deployment,
    DeploymentTarget,
    Environment,
    Operation,
    Release,
    Resource,
    Secret,
    Version,
)
from hosting.provisioning import probing
from hosting.provisioning.dispatching import DispatchError, ScriptFailed, dispatcher_of
from hosting.provisioning.plan import (
    RESOURCE_KINDS,
    PlannedRelease,
    Target,
    cpu_ms,
    inputs_digest,
    plan_deploy,
)
from hosting.provisioning.removal import GONE, remove
from hosting.provisioning.steps import NotYet, Run, Step, StepFailed
from smcp.common import audit
from smcp.common.blobs import BlobMissing, get_blob
from smcp.common.errors import DomainError
from smcp.common.ids import new_id
from smcp.common.sealing import CannotOpen, open_sealed

ANSWER_WITHIN_S: Final = 60.0  # a script nobody finds, or that keeps failing, is given up
MCP_WITHIN_S: Final = (
    3.0  # a script that answers, but not as an MCP server; the code before it may linger a moment
)
POLL_S: Final = 0.2


def targets_of(run: Run) -> list[Target]:
    return [
        Target(version_id=target["version"], percentage=Decimal(target["percentage"]))
        for target in run.input["targets"]
    ]


def new_releases(run: Run) -> list[Release]:
    """The Releases this Operation makes (reused ones were there before). Call inside a transaction."""
    ids = [entry["id"] for entry in run.context.get("releases", ()) if entry["is_new"]]
    return list(
        Release.objects.filter(tenant_id=run.tenant_id, id__in=ids)
        .select_related("version", "environment")
        .order_by("number")
    )


class ChooseNames(Step):
    """Only rows: Releases, and Resources that are yet to be made."""

    name: ClassVar[str] = "choose_names"

    def do(self, run: Run) -> None:
        with run.transaction() as operation:
            if "releases" in run.context:
                return
            environment = Environment.objects.get(tenant_id=run.tenant_id, id=run.environment_id)
            try:
                plan = plan_deploy(
                    tenant_id=run.tenant_id, environment_id=environment.id, targets=targets_of(run)
                )
            except DomainError as exc:
                raise StepFailed(exc.code, str(exc)) from exc
            made: dict[str, str] = {}
            for new in plan.new_resources:
                resource = self._resource(run, environment, new.kind)
                made[new.binding] = resource.id
                Binding.objects.create(
                    tenant_id=run.tenant_id,
                    environment=environment,
                    name=new.binding,
                    kind=new.kind,
                    resource=resource,
                )
            run.remember(
                operation,
                releases=[
                    self._release(run, environment, planned, made, plan.is_in_place)
                    for planned in plan.releases
                ],
                is_in_place=plan.is_in_place,
                is_priority=plan.is_rollback,
                pivot=plan.pivot,
            )

    def undo(self, run: Run) -> None:
        with run.transaction():
            now = timezone.now()
            for release in new_releases(run):
                Release.objects.filter(id=release.id).update(state=Release.State.REMOVED, removed_at=now)
            mine = Resource.objects.filter(
                tenant_id=run.tenant_id, environment_id=run.environment_id, made_by_id=run.operation_id
            )
            Binding.objects.filter(tenant_id=run.tenant_id, resource__in=mine).delete()
            # Later steps took away what they may have made; what is left was only a name.
            mine.exclude(state__in=GONE).update(state=Resource.State.DELETED, deleted_at=now)

    def _release(
        self,
        run: Run,
        environment: Environment,
        planned: PlannedRelease,
        made: Mapping[str, str],
        is_in_place: bool,
    ) -> dict[str, Any]:
        entry: dict[str, Any] = {"percentage": str(planned.target.percentage)}
        if planned.reuses:
            return {**entry, "id": planned.reuses, "is_new": False}
        if planned.script_id:
            script = Resource.objects.get(tenant_id=run.tenant_id, id=planned.script_id)
        else:
            script = self._resource(run, environment, ResourceKind.SCRIPT, is_stable=is_in_place)
        version = Version.objects.get(tenant_id=run.tenant_id, id=planned.target.version_id)
        bindings = [
            {**binding, "resource": binding["resource"] or made[binding["name"]]}
            if "resource" in binding
            else dict(binding)
            for binding in planned.bindings
        ]
        last = Release.objects.filter(tenant_id=run.tenant_id, environment=environment).aggregate(
            number=Max("number")
        )["number"]
        release = Release.objects.create(
            tenant_id=run.tenant_id,
            environment=environment,
            version=version,
            number=(last or 0) + 1,
            script_name=script.name,
            bindings=bindings,
            inputs_digest=inputs_digest(version, environment, bindings, script.id if is_in_place else None),
        )
        return {**entry, "id": release.id, "is_new": True, "migrations": planned.migrations}

    def _resource(
        self, run: Run, environment: Environment, kind: ResourceKind, *, is_stable: bool = False
    ) -> Resource:
        row_id = new_id()
        return Resource.objects.create(
            id=row_id,
            tenant_id=run.tenant_id,
            environment=environment,
            account_id=environment.account_id,
            kind=kind,
            name=names.resource_name(row_id),
            made_by_id=run.operation_id,
            progress={"is_stable": True} if is_stable else {},
        )


class EnsureResources(Step):
    """Makes what is declared and not yet there, one call each; adopts by our own name what an earlier attempt made."""

    kind: ClassVar[ResourceKind]

    def do(self, run: Run) -> None:
        for resource in self._rows(run, Resource.State.PLANNED):
            found = self.ensure(run, resource)
            with run.transaction():
                Resource.objects.filter(
                    tenant_id=run.tenant_id, id=resource.id, state=Resource.State.PLANNED
                ).update(state=Resource.State.LIVE, cloudflare_id=found.id)

    def undo(self, run: Run) -> None:
        for resource in self._rows(run, *(set(Resource.State) - set(GONE))):
            remove(run, resource)

    def ensure(self, run: Run, resource: Resource) -> Found:
        raise NotImplementedError

    def _rows(self, run: Run, *states: str) -> list[Resource]:
        with run.transaction():
            return list(
                Resource.objects.filter(
                    tenant_id=run.tenant_id,
                    environment_id=run.environment_id,
                    made_by_id=run.operation_id,
                    kind=self.kind,
                    state__in=states,
                ).order_by("id")
            )


class EnsureKvNamespaces(EnsureResources):
    name: ClassVar[str] = "ensure_kv_namespaces"
    kind: ClassVar[ResourceKind] = ResourceKind.KV_NAMESPACE

    def ensure(self, run: Run, resource: Resource) -> Found:
        return run.cloudflare(resource.account_id).ensure_kv_namespace(resource.name)


class EnsureR2Buckets(EnsureResources):
    name: ClassVar[str] = "ensure_r2_buckets"
    kind: ClassVar[ResourceKind] = ResourceKind.R2_BUCKET

    def ensure(self, run: Run, resource: Resource) -> Found:
        return run.cloudflare(resource.account_id).ensure_r2_bucket(
            resource.name, location=resource.location or None
        )


class EnsureD1Databases(EnsureResources):
    name: ClassVar[str] = "ensure_d1_databases"
    kind: ClassVar[ResourceKind] = ResourceKind.D1_DATABASE

    def ensure(self, run: Run, resource: Resource) -> Found:
        return run.cloudflare(resource.account_id).ensure_d1_database(
            resource.name, location=resource.location or None
        )


class Upload(Step):
    """Each new Release whole: code, bindings and secrets in one request, which may be repeated."""

    name: ClassVar[str] = "upload"

    def do(self, run: Run) -> None:
        with run.transaction():
            releases = [r for r in new_releases(run) if r.state == Release.State.PLANNED]
        migrations = {entry["id"]: entry.get("migrations") for entry in run.context["releases"]}
        for release in releases:
            with run.transaction():
                script = _script_of(run, release)
            pending = self._pending_migrations(run, script, migrations[release.id])
            with run.transaction():
                upload = compose_upload(release, migrations=pending)
            run.cloudflare(script.account_id).put_script(script.name, upload)
            progress = dict(script.progress)
            if migrations[release.id]:
                progress["migration_tag"] = migrations[release.id]["new_tag"]
            with run.transaction():
                Release.objects.filter(id=release.id, state=Release.State.PLANNED).update(
                    state=Release.State.UPLOADED
                )
                Resource.objects.filter(id=script.id).update(
                    state=Resource.State.LIVE, cloudflare_id=script.name, progress=progress
                )

    def undo(self, run: Run) -> None:
        with run.transaction():
            scripts = [_script_of(run, release) for release in new_releases(run)]
        for script in scripts:
            if script.made_by_id == run.operation_id and script.state not in GONE:
                remove(run, script)

    def _pending_migrations(
        self, run: Run, script: Resource, migrations: Mapping[str, Any] | None
    ) -> Mapping[str, Any] | None:
        if not migrations:
            return None
        # An earlier attempt may have run them and lost the answer; running them twice is refused.
        found = run.cloudflare(script.account_id).get_script(script.name)
        at_tag = found.extra.get("migration_tag") if found else None
        return None if at_tag == migrations["new_tag"] else migrations


class Probe(Step):
    """Exactly the new scripts are asked, through the dispatcher: do they speak MCP, and which eras of it?"""

    name: ClassVar[str] = "probe"
    can_be_left: ClassVar[bool] = True
    leaves_error: ClassVar[bool] = True

    def do(self, run: Run) -> None:
        with run.transaction():
            releases = [r for r in new_releases(run) if r.state == Release.State.UPLOADED]
            dispatchers = {
                r.id: dispatcher_of(r.environment.account_id, tenant_id=run.tenant_id) for r in releases
            }
        for release in releases:
            run.assure()
            try:
                spoken = probing.ask(dispatchers[release.id], release.script_name, release.mcp_path)
            except probing.NotAnMcpServer as exc:
                self._wait(run, MCP_WITHIN_S, "not-an-mcp-server", exc)
            except ScriptFailed as exc:
                self._wait(run, MCP_WITHIN_S, "code-failed", exc)
            except DispatchError as exc:
                self._wait(run, ANSWER_WITHIN_S, "no-answer", exc)
            else:
                with run.transaction():
                    Release.objects.filter(id=release.id, state=Release.State.UPLOADED).update(
                        state=Release.State.VERIFIED,
                        eras=list(spoken.eras),
                        issues_sessions=spoken.issues_sessions,
                    )

    def _wait(self, run: Run, within_s: float, code: str, exc: Exception) -> None:
        if run.waited_s() > within_s:
            raise StepFailed(code, str(exc)) from exc
        raise NotYet(POLL_S, str(exc)) from exc


class Publish(Step):
    """The pivot. One transaction makes the Deployment the active one; the data plane learns of it right after."""

    name: ClassVar[str] = "publish"
    bound: ClassVar[int | None] = None  # once it may have happened there is no way back

    def do(self, run: Run) -> None:
        with run.transaction():
            if not Deployment.objects.filter(tenant_id=run.tenant_id, operation_id=run.operation_id).exists():
                self._activate(run)
        try:
            routing.publish_environments(tenant_id=run.tenant_id, environment_ids=[str(run.environment_id)])
        except redis.RedisError as exc:
            raise NotYet(1.0, "waiting for the data plane's Redis") from exc

    def _activate(self, run: Run) -> None:
        mine = Deployment.objects.filter(tenant_id=run.tenant_id, environment_id=run.environment_id)
        last = mine.aggregate(number=Max("number"))["number"]
        mine.filter(is_active=True).update(is_active=False)
        deployment = Deployment.objects.create(
            tenant_id=run.tenant_id,
            environment_id=str(run.environment_id),
            number=(last or 0) + 1,
            is_active=True,
            operation_id=run.operation_id,
            created_by=run.requested_by,
        )
        entries: Sequence[Mapping[str, Any]] = run.context["releases"]
        for entry in entries:
            DeploymentTarget.objects.create(
                tenant_id=run.tenant_id,
                deployment=deployment,
                release_id=entry["id"],
                percentage=Decimal(entry["percentage"]),
            )
        if run.context.get("is_in_place"):
            self._retire_predecessors(run, entries[0]["id"])
        Environment.objects.filter(tenant_id=run.tenant_id, id=run.environment_id).update(
            route_version=F("route_version") + 1
        )
        audit.record(
            tenant_id=run.tenant_id,
            actor=run.requested_by,
            action="deployment.activated",
            object_kind="deployment",
            object_id=deployment.id,
            detail={"environment": run.environment_id, "releases": [dict(entry) for entry in entries]},
        )

    def _retire_predecessors(self, run: Run, release_id: str) -> None:
        """Code replaced in place is gone; its Releases cannot serve again."""
        release = Release.objects.get(tenant_id=run.tenant_id, id=release_id)
        Release.objects.filter(tenant_id=run.tenant_id, script_name=release.script_name).exclude(
            id=release.id
        ).exclude(state=Release.State.REMOVED).update(state=Release.State.REMOVED, removed_at=timezone.now())


class Drain(Step):
    """What is about to be removed may still be answering; it lost its traffic at least DRAIN_S ago when this is done."""

    name: ClassVar[str] = "drain"
    bound: ClassVar[int | None] = None

    def do(self, run: Run) -> None:
        with run.transaction():
            surplus = surplus_releases(run)
            lost_at = [_lost_traffic_at(run, release) for release in surplus]
        if lost_at:
            left_s = settings.DRAIN_S - (timezone.now() - max(lost_at)).total_seconds()
            if left_s > 0:
                raise NotYet(left_s, "letting running requests finish")


class RemoveReleases(Step):
    """Beyond the kept number. What cannot be removed now stays `deleting` in the ledger, and the reconciler tries again."""

    name: ClassVar[str] = "remove_releases"
    can_be_left: ClassVar[bool] = True

    def do(self, run: Run) -> None:
        with run.transaction():
            surplus = surplus_releases(run)
            Release.objects.filter(id__in=[release.id for release in surplus]).update(
                state=Release.State.REMOVED, removed_at=timezone.now()
            )
            scripts = Resource.objects.filter(
                tenant_id=run.tenant_id, environment_id=run.environment_id, kind=ResourceKind.SCRIPT
            )
            scripts.filter(name__in=[release.script_name for release in surplus]).exclude(
                state__in=GONE
            ).update(state=Resource.State.DELETING)
            leaving = list(scripts.filter(state=Resource.State.DELETING).order_by("id"))
        for script in leaving:
            remove(run, script)


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
        egress=environment.egress_allow,
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
        context = f"secret:{release.tenant_id}:{release.environment_id}:{name}"
        return {"type": kind, "name": name, "text": open_sealed(secret.sealed, context=context).decode()}
    return dict(binding)


def _script_of(run: Run, release: Release) -> Resource:
    return Resource.objects.get(tenant_id=run.tenant_id, kind=ResourceKind.SCRIPT, name=release.script_name)


def _lost_traffic_at(run: Run, release: Release) -> Any:
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


STEPS: Final[Mapping[str, Step]] = {
    step.name: step
    for step in (
        ChooseNames(),
        EnsureKvNamespaces(),
        EnsureR2Buckets(),
        EnsureD1Databases(),
        Upload(),
        Probe(),
        Publish(),
        Drain(),
        RemoveReleases(),
    )
}
KIND: Final = Operation.Kind.DEPLOY
