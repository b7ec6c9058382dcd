"""Deploying and retiring: what starts an Operation. The work itself is done step by step in the background.

One Operation at a time changes an Environment. The Server's row is locked while we look, so two wishes cannot slip past each other.

DomainError
├── Invalid:   what a plan refuses (see provisioning/plan.py)
└── Conflict:  OperationUnderWay · ServerGone · EnvironmentGone
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from django.db.models import Q

from hosting import wake
from hosting.models import UNFINISHED, Environment, Operation, Server, Step
from hosting.operations.rows import lock_environment, lock_server
from hosting.provisioning import plan as planning
from hosting.provisioning.plan import Plan, Target
from smcp.common import audit
from smcp.common.audit import correlation_id
from smcp.common.errors import Conflict, NotFound
from smcp.common.tenancy import as_tenant

RETIRE_STEPS: Final = (
    "withdraw_route",
    "drain_requests",
    "remove_scripts",
    "delete_kv_namespaces",
    "delete_d1_databases",
    "delete_r2_buckets",
    "close_books",
)


class OperationUnderWay(Conflict):
    code = "operation-under-way"
    title = "Another operation is under way"


def deploy_version(
    *,
    tenant_id: str,
    actor: str,
    environment_id: str,
    targets: Sequence[tuple[str, Decimal | int]],
    now: datetime,
) -> Operation:
    """`targets`: (version id, percentage); they add up to 100. A deployment of what served before is a rollback.

    Raises NotFound, OperationUnderWay, ServerGone, RunsElsewhere, and what `plan.plan_deploy` raises.
    """
    wanted = [Target(version_id=version, percentage=Decimal(percentage)) for version, percentage in targets]
    with as_tenant(tenant_id):
        environment = _lock(tenant_id, environment_id)
        plan = planning.plan_deploy(tenant_id=tenant_id, environment_id=environment_id, targets=wanted)
        return _begin(
            tenant_id=tenant_id,
            actor=actor,
            kind=Operation.Kind.DEPLOY,
            server_id=environment.server_id,
            environment_id=environment_id,
            steps=plan.steps,
            asked={
                "targets": [
                    {
                        "version": release.target.version_id,
                        "number": release.version_number,
                        "percentage": str(release.target.percentage),
                    }
                    for release in plan.releases
                ]
            },
            context={"pivot": plan.pivot},
            now=now,
        )


def plan_deploy(*, tenant_id: str, environment_id: str, targets: Sequence[tuple[str, Decimal | int]]) -> Plan:
    """What `deploy_version` would do, without doing it. Raises what it raises, but OperationUnderWay."""
    wanted = [Target(version_id=version, percentage=Decimal(percentage)) for version, percentage in targets]
    with as_tenant(tenant_id):
        return planning.plan_deploy(tenant_id=tenant_id, environment_id=environment_id, targets=wanted)


def retire_environment(*, tenant_id: str, actor: str, environment_id: str, now: datetime) -> Operation:
    """For good: its code and its data are deleted, its slug is never given again. Raises NotFound, EnvironmentGone, OperationUnderWay."""
    with as_tenant(tenant_id):
        environment = _lock(tenant_id, environment_id)
        operation = _begin(
            tenant_id=tenant_id,
            actor=actor,
            kind=Operation.Kind.RETIRE,
            server_id=environment.server_id,
            environment_id=environment_id,
            steps=RETIRE_STEPS,
            asked={"environment": environment.slug},
            context={},
            now=now,
        )
        Environment.objects.filter(tenant_id=tenant_id, id=environment_id).update(
            state=Environment.State.RETIRING
        )
    return operation


def retire_server(*, tenant_id: str, actor: str, server_id: str, now: datetime) -> Operation:
    """The Server with all its Environments. Raises NotFound, ServerGone, OperationUnderWay."""
    with as_tenant(tenant_id):
        server = lock_server(tenant_id=tenant_id, server_id=server_id)
        operation = _begin(
            tenant_id=tenant_id,
            actor=actor,
            kind=Operation.Kind.RETIRE,
            server_id=server_id,
            environment_id=None,
            steps=RETIRE_STEPS,
            asked={"server": server.slug},
            context={},
            now=now,
        )
        Server.objects.filter(tenant_id=tenant_id, id=server_id).update(state=Server.State.RETIRING)
        Environment.objects.filter(
            tenant_id=tenant_id, server_id=server_id, state=Environment.State.ACTIVE
        ).update(state=Environment.State.RETIRING)
    return operation


def _lock(tenant_id: str, environment_id: str) -> Environment:
    """The Environment, with its Server locked."""
    server_id = (
        Environment.objects.filter(tenant_id=tenant_id, id=environment_id)
        .values_list("server_id", flat=True)
        .first()
    )
    if server_id is None:
        raise NotFound("environment")
    lock_server(tenant_id=tenant_id, server_id=server_id)
    return lock_environment(tenant_id=tenant_id, environment_id=environment_id)


def _begin(
    *,
    tenant_id: str,
    actor: str,
    kind: str,
    server_id: str,
    environment_id: str | None,
    steps: Sequence[str],
    asked: Mapping[str, Any],
    context: Mapping[str, Any],
    now: datetime,
) -> Operation:
    under_way = Operation.objects.filter(tenant_id=tenant_id, server_id=server_id, state__in=UNFINISHED)
    if environment_id is not None:
        under_way = under_way.filter(Q(environment_id=environment_id) | Q(environment=None))
    if (other := under_way.first()) is not None:
        raise OperationUnderWay(f"A {other.kind} is under way (operation {other.id}). Wait for it to end.")
    operation = Operation.objects.create(
        tenant_id=tenant_id,
        server_id=server_id,
        environment_id=environment_id,
        kind=kind,
        input=dict(asked),
        context=dict(context),
        due_at=now,
        requested_by=actor,
        correlation=correlation_id.get(),
    )
    Step.objects.bulk_create(
        Step(tenant_id=tenant_id, operation=operation, position=position, name=name)
        for position, name in enumerate(steps)
    )
    audit.record(
        tenant_id=tenant_id,
        actor=actor,
        action=f"operation.{kind}_requested",
        object_kind="operation",
        object_id=operation.id,
        detail={"server": server_id, "environment": environment_id, **asked},
    )
    wake.run_operation(tenant_id=tenant_id, operation_id=operation.id)
    return operation
