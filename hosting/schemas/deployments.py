"""Deployments, the Operations that make them, and the Resources they stand on."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from ninja import Schema
from pydantic import Field

from hosting.models import Deployment, Operation, Resource, Step
from smcp.common.rest import Wish


class TargetIn(Wish):
    version: int = Field(ge=1)
    percentage: Decimal = Field(gt=0, le=100, max_digits=5, decimal_places=2)


class DeploymentIn(Wish):
    """The percentages add up to 100. Deploying an older version is rolling back."""

    versions: list[TargetIn] = Field(min_length=1, max_length=10)


class TargetOut(Schema):
    version: int
    release: int
    percentage: float


class DeploymentOut(Schema):
    number: int
    is_active: bool
    versions: list[TargetOut]
    operation: str
    created_by: str
    created_at: datetime

    @classmethod
    def of(cls, deployment: Deployment) -> DeploymentOut:
        return cls(
            number=deployment.number,
            is_active=deployment.is_active,
            versions=[
                TargetOut(
                    version=target.release.version.number,
                    release=target.release.number,
                    percentage=float(target.percentage),
                )
                for target in deployment.targets.all()
            ],
            operation=deployment.operation_id,
            created_by=deployment.created_by,
            created_at=deployment.created_at,
        )


class StepOut(Schema):
    """`message`: what it waits for, or why it failed."""

    name: str
    state: str
    attempts: int
    message: str
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, step: Step) -> StepOut:
        return cls.from_orm(step)


class FailureOut(Schema):
    code: str
    message: str
    step: str


class OperationOut(Schema):
    """`state` ends as succeeded or failed; until then follow `events`, or ask again."""

    id: str
    kind: str
    state: str
    server: str
    environment: str | None
    steps: list[StepOut]
    error: FailureOut | None
    requested_by: str
    request_id: str
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, operation: Operation) -> OperationOut:
        error = operation.error
        return cls(
            id=operation.id,
            kind=operation.kind,
            state=operation.state,
            server=operation.server.slug,
            environment=operation.environment.slug if operation.environment else None,
            steps=[StepOut.of(step) for step in operation.steps.all()],
            error=FailureOut(**{key: str(error.get(key, "")) for key in ("code", "message", "step")})
            if error
            else None,
            requested_by=operation.requested_by,
            request_id=operation.correlation,
            created_at=operation.created_at,
            finished_at=operation.finished_at,
        )


class ResourceOut(Schema):
    """One thing that exists at Cloudflare for an Environment."""

    id: str
    kind: str
    name: str
    state: str
    location: str
    server: str
    environment: str
    created_at: datetime
    deleted_at: datetime | None

    @classmethod
    def of(cls, resource: Resource) -> ResourceOut:
        return cls(
            id=resource.id,
            kind=resource.kind,
            name=resource.name,
            state=resource.state,
            location=resource.location,
            server=resource.environment.server.slug,
            environment=resource.environment.slug,
            created_at=resource.created_at,
            deleted_at=resource.deleted_at,
        )
