"""Operations: long work, and how far it is."""

from __future__ import annotations

from typing import Literal

from django.http import HttpRequest
from ninja import Query, Router
from pydantic import Field

from hosting.models import Operation
from hosting.queries.operations import get_operation, list_operations
from hosting.schemas.deployments import OperationOut
from smcp.common.rest import Answer, PageOf, PageQuery, one, page_answer
from tenants.auth import READ, Call, Needs
from tenants.door import call_of

router = Router(tags=["operations"])


class OperationsQuery(PageQuery):
    server: str = Field("", max_length=63, description="Of this server only.")
    state: Literal["", "pending", "running", "unwinding", "succeeded", "failed"] = ""


def accepted(call: Call, operation: Operation) -> Answer:
    """202: it has been written down and will be done; `Location` is where to follow it."""
    assert call.tenant is not None
    shown = get_operation(tenant_id=call.tenant_id, operation_id=operation.id)
    where = f"/api/v1/tenants/{call.tenant.slug}/operations/{operation.id}"
    return Answer(OperationOut.of(shown), status=202, headers={"Location": where})


@router.get("/tenants/{tenant}/operations", response=PageOf[OperationOut], auth=Needs(READ))
def list_tenant_operations(request: HttpRequest, tenant: str, page: Query[OperationsQuery]) -> Answer:
    rows = list_operations(tenant_id=call_of(request).tenant_id, server_slug=page.server, state=page.state)
    return page_answer(request, rows, page, OperationOut.of)


@router.get("/tenants/{tenant}/operations/{operation}", response=OperationOut, auth=Needs(READ))
def get_tenant_operation(request: HttpRequest, tenant: str, operation: str) -> Answer:
    return one(OperationOut.of(get_operation(tenant_id=call_of(request).tenant_id, operation_id=operation)))
