"""The first step of DEPLOY: every name is chosen in one transaction, with the rows that bear it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar

from django.db.models import Max
from django.utils import timezone

from hosting import names
from hosting.cloudflare.port import ResourceKind
from hosting.models import Binding, Environment, Release, Resource, Version
from hosting.provisioning.plan import PlannedRelease, Target, inputs_digest, plan_deploy
from hosting.provisioning.releases import new_releases
from hosting.provisioning.removal import GONE
from hosting.provisioning.steps import Run, Step, StepFailed
from smcp.common.errors import DomainError
from smcp.common.ids import new_id


def targets_of(run: Run) -> list[Target]:
    return [
        Target(version_id=target["version"], percentage=Decimal(target["percentage"]))
        for target in run.input["targets"]
    ]


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
            egress_allow=environment.egress_allow,
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
