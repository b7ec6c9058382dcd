"""Members: the people of a tenant and their roles."""

from __future__ import annotations

from django.http import HttpRequest
from ninja import Query, Router

from smcp.common.rest import Answer, PageOf, PageQuery, check_if_match, one, page_answer
from tenants import operations, queries
from tenants.auth import ADMIN, OPERATOR, READ, Needs
from tenants.door import call_of
from tenants.schemas import MemberIn, MemberOut, MemberPatch

router = Router(tags=["members"])


@router.get("/tenants/{tenant}/members", response=PageOf[MemberOut], auth=Needs(READ, OPERATOR))
def list_members(request: HttpRequest, tenant: str, page: Query[PageQuery]) -> Answer:
    members = queries.list_members(tenant_id=call_of(request).tenant_id)
    return page_answer(request, members, page, MemberOut.of)


@router.post("/tenants/{tenant}/members", response={201: MemberOut}, auth=Needs(ADMIN, OPERATOR))
def add_member(request: HttpRequest, tenant: str, body: MemberIn) -> Answer:
    """The person must have an account on the platform."""
    call = call_of(request)
    member = operations.add_member(
        tenant_id=call.tenant_id, actor=call.actor, email=body.email, role=body.role
    )
    return one(MemberOut.of(member), status=201, headers={"Location": f"{request.path}/{member.id}"})


@router.get("/tenants/{tenant}/members/{member}", response=MemberOut, auth=Needs(READ, OPERATOR))
def get_member(request: HttpRequest, tenant: str, member: str) -> Answer:
    return one(MemberOut.of(queries.get_member(tenant_id=call_of(request).tenant_id, member_id=member)))


@router.patch("/tenants/{tenant}/members/{member}", response=MemberOut, auth=Needs(ADMIN, OPERATOR))
def change_role(request: HttpRequest, tenant: str, member: str, body: MemberPatch) -> Answer:
    """The last owner stays one."""
    call = call_of(request)
    check_if_match(request, MemberOut.of(queries.get_member(tenant_id=call.tenant_id, member_id=member)))
    operations.change_role(tenant_id=call.tenant_id, actor=call.actor, member_id=member, role=body.role)
    return one(MemberOut.of(queries.get_member(tenant_id=call.tenant_id, member_id=member)))


@router.delete("/tenants/{tenant}/members/{member}", response={204: None}, auth=Needs(ADMIN, OPERATOR))
def remove_member(request: HttpRequest, tenant: str, member: str) -> Answer:
    """The last owner stays."""
    call = call_of(request)
    operations.remove_member(tenant_id=call.tenant_id, actor=call.actor, member_id=member)
    return Answer(None, status=204)
