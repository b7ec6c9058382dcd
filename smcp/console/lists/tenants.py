"""Tenants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.contrib import admin
from django.db.models import Count, F, OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils.safestring import SafeString

from hosting.models import Server
from smcp.console import badges
from smcp.console.actions import tenants as acts
from smcp.console.listing import ConsoleAdmin, column
from smcp.console.lists.cells import health_counts, health_summary, times
from smcp.console.pages import tenant as page
from tenants.models import Tenant


@admin.register(Tenant)
class TenantAdmin(ConsoleAdmin):
    list_display = ("tenant", "state_badge", "servers", "health", "plan", "created")
    list_display_links = ("tenant",)
    search_fields = ("slug", "name")
    search_help_text = "Search by name or slug"
    chips, chips_family = "state", "tenant"
    page_template = "console/tenant.html"
    empty_title = "No tenants yet"
    empty_text = "A tenant is an organisation that owns servers, members and API keys. Create one to deploy its first server."
    empty_link = ("Create a tenant", "admin:console_create_tenant")
    list_button = ("Create a tenant", "admin:console_create_tenant")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Tenant]:
        servers = (
            Server.objects.filter(tenant=OuterRef("pk"))
            .exclude(state=Server.State.RETIRED)
            .order_by()
            .values("tenant")
            .annotate(n=Count("pk"))
            .values("n")
        )
        rows: QuerySet[Tenant] = (
            super().get_queryset(request).annotate(server_count=Subquery(servers), **health_counts("tenant"))
        )
        return rows

    def get_urls(self) -> list[URLPattern]:
        create = path("new/", self.admin_site.admin_view(self.create), name="console_create_tenant")
        return [create, *super().get_urls()]

    def posts(self) -> Sequence[tuple[str, str, Callable[..., HttpResponse]]]:
        return (
            ("suspend", "console_suspend_tenant", acts.suspend),
            ("resume", "console_resume_tenant", acts.resume),
            ("members/new", "console_add_member", acts.add_member),
            ("keys/new", "console_create_key", self.create_key),
            ("keys/<str:key_id>/revoke", "console_revoke_key", acts.revoke_key),
        )

    def create(self, request: HttpRequest) -> HttpResponse:
        return acts.create(self.admin_site, request)

    def create_key(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return acts.create_key(self.admin_site, request, object_id)

    def page(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        return page.context(obj)

    @column("Tenant", ordering="slug", two_lines=True)
    def tenant(self, obj: Tenant) -> tuple[str, str]:
        return obj.name, obj.slug

    @column("State", ordering="state")
    def state_badge(self, obj: Tenant) -> SafeString:
        return badges.badge("tenant", obj.state, obj.get_state_display())

    @column("Servers", ordering=F("server_count").desc(nulls_last=True))
    def servers(self, obj: Any) -> int:
        return obj.server_count or 0

    @column("Health")
    def health(self, obj: Any) -> SafeString:
        return health_summary(obj.healthy_count, obj.slow_count, obj.unhealthy_count, obj.unknown_count)

    @column("Created", ordering="created_at")
    def created(self, obj: Tenant) -> SafeString:
        return times(obj.created_at)
