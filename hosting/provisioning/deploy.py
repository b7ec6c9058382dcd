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

from hosting import routing
from hosting.cloudflare.port import ResourceKind
from hosting.models import Deployment, DeploymentTarget, Environment, Operation, Release, Resource
from hosting.provisioning import probing
from hosting.provisioning.dispatching import DispatchError, ScriptFailed, dispatcher_of
from hosting.provisioning.ensuring import EnsureD1Databases, EnsureKvNamespaces, EnsureR2Buckets
from hosting.provisioning.naming import ChooseNames
from hosting.provisioning.releases import (
    compose_upload,
    lost_traffic_at,
    new_releases,
    script_of,
    surplus_releases,
)
from hosting.provisioning.removal import GONE, remove
from hosting.provisioning.steps import NotYet, Run, Step, StepFailed
from smcp.common import audit

ANSWER_WITHIN_S: Final = 60.0  # a script nobody finds, or that keeps failing, is given up
MCP_WITHIN_S: Final = (
    3.0  # a script that answers, but not as an MCP server; the code before it may linger a moment
)
POLL_S: Final = 0.2


class Upload(Step):
    """Each new Release whole: code, bindings and secrets in one request, which may be repeated."""

    name: ClassVar[str] = "upload"

    def do(self, run: Run) -> None:
        with run.transaction():
            releases = [r for r in new_releases(run) if r.state == Release.State.PLANNED]
        migrations = {entry["id"]: entry.get("migrations") for entry in run.context["releases"]}
        for release in releases:
            with run.transaction():
                script = script_of(run, release)
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
            scripts = [script_of(run, release) for release in new_releases(run)]
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
                r.id: dispatcher_of(r.environment.account_id, tenant_id=run.tenant_id, egress=r.egress_allow)
                for r in releases
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
            lost_at = [lost_traffic_at(run, release) for release in surplus]
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
