"""Operations and how far they are."""

from __future__ import annotations

from django.db.models import QuerySet

from hosting.models import Operation
from smcp.common.errors import NotFound


def get_operation(*, tenant_id: str, operation_id: str) -> Operation:
    """With its steps, server and environment. Raises NotFound."""
    operation = list_operations(tenant_id=tenant_id).filter(id=operation_id).first()
    if operation is None:
        raise NotFound("operation")
    return operation


def list_operations(*, tenant_id: str, server_slug: str = "", state: str = "") -> QuerySet[Operation]:
    """With their steps, server and environment."""
    operations = (
        Operation.objects.filter(tenant_id=tenant_id)
        .select_related("server", "environment")
        .prefetch_related("steps")
    )
    if server_slug:
        operations = operations.filter(server__slug=server_slug)
    return operations.filter(state=state) if state else operations
