"""Health of an environment, as its users see it."""

from __future__ import annotations

from datetime import timedelta

from django.http import HttpRequest
from django.utils import timezone
from ninja import Query, Router, Schema
from pydantic import Field

from hosting.queries.health import get_health, list_flips, list_incidents, list_latencies
from hosting.queries.servers import get_environment
from hosting.schemas.health import FlipOut, HealthOut, IncidentOut, LatencyHistoryOut, LatencyOut
from smcp.common.rest import Answer, PageOf, PageQuery, page_answer
from tenants.auth import READ, Needs
from tenants.door import call_of

router = Router(tags=["health"])
ONE = "/tenants/{tenant}/servers/{server}/environments/{environment}/health"


class HistoryQuery(Schema):
    minutes: int = Field(60, ge=1, le=24 * 60, description="How far back.")


@router.get(ONE, response=HealthOut, auth=Needs(READ))
def get_environment_health(request: HttpRequest, tenant: str, server: str, environment: str) -> Answer:
    call = call_of(request)
    row = get_environment(tenant_id=call.tenant_id, server_slug=server, slug=environment)
    return Answer(HealthOut.of(get_health(tenant_id=call.tenant_id, environment_id=row.id)))


@router.get(f"{ONE}/flips", response=PageOf[FlipOut], auth=Needs(READ))
def list_environment_flips(
    request: HttpRequest, tenant: str, server: str, environment: str, page: Query[PageQuery]
) -> Answer:
    """Every change of the state."""
    call = call_of(request)
    row = get_environment(tenant_id=call.tenant_id, server_slug=server, slug=environment)
    rows = list_flips(tenant_id=call.tenant_id, environment_id=row.id)
    return page_answer(request, rows, page, FlipOut.of)


@router.get(f"{ONE}/incidents", response=PageOf[IncidentOut], auth=Needs(READ))
def list_environment_incidents(
    request: HttpRequest, tenant: str, server: str, environment: str, page: Query[PageQuery]
) -> Answer:
    call = call_of(request)
    row = get_environment(tenant_id=call.tenant_id, server_slug=server, slug=environment)
    rows = list_incidents(tenant_id=call.tenant_id, environment_id=row.id)
    return page_answer(request, rows, page, IncidentOut.of)


@router.get(f"{ONE}/latency", response=LatencyHistoryOut, auth=Needs(READ))
def get_environment_latency(
    request: HttpRequest, tenant: str, server: str, environment: str, history: Query[HistoryQuery]
) -> Answer:
    """A row a minute and source, oldest first."""
    call = call_of(request)
    row = get_environment(tenant_id=call.tenant_id, server_slug=server, slug=environment)
    since = timezone.now() - timedelta(minutes=history.minutes)
    rows = list_latencies(tenant_id=call.tenant_id, environment_id=row.id, since=since)
    return Answer(LatencyHistoryOut(since=since, items=[LatencyOut.of(sample) for sample in rows]))
