"""Sessions of clients, as the gateways told of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from hosting.models import Session
from smcp.console import badges
from smcp.console.actions import sessions as actions
from smcp.console.listing import ConsoleAdmin, column, link_to
from smcp.console.lists.cells import times, two_lines
from smcp.console.lists.filters import Present
from smcp.console.pages import sessions as page


@admin.register(Session)
class SessionAdmin(ConsoleAdmin):
    list_display = (
        "client",
        "where",
        "tenant_link",
        "state_badge",
        "who",
        "revision",
        "opened",
        "last_active",
    )
    list_display_links = ("client",)
    list_filter = (("protocol_version", Present),)
    search_fields = ("client_name", "handle", "environment__server__slug", "tenant__slug")
    search_help_text = "Search by client, server, tenant or handle"
    chips, chips_family = "state", "session"
    page_template = "console/session.html"
    empty_title = "No sessions"
    empty_text = "A session begins when an MCP client initializes. It is listed within seconds, and kept for a week after its end."

    def get_queryset(self, request: HttpRequest) -> QuerySet[Session]:
        return super().get_queryset(request).select_related("environment__server__tenant")

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        answer = super().changelist_view(request, extra_context)
        cl = getattr(answer, "context_data", {}).get("cl")
        if cl is not None:
            names = page.principals(list(cl.result_list))
            for session in cl.result_list:
                session.who_words = names.get(session.principal, session.principal)
        return answer

    def posts(self) -> Sequence[tuple[str, str, Callable[..., HttpResponse]]]:
        return (("end", "console_end_session", actions.end),)

    def page(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        return page.context(obj)

    @column("Client", ordering="client_name", two_lines=True)
    def client(self, obj: Session) -> tuple[str, str]:
        return page.client_of(obj), obj.handle

    @column("Environment", ordering="environment__server__slug")
    def where(self, obj: Session) -> SafeString:
        environment = obj.environment
        return two_lines(link_to(environment, environment.server.slug, strong=True), environment.slug)

    @column("Tenant", ordering="tenant__slug")
    def tenant_link(self, obj: Session) -> SafeString:
        return link_to(obj.environment.server.tenant)

    @column("State", ordering="state")
    def state_badge(self, obj: Session) -> SafeString:
        return badges.badge("session", obj.state, obj.get_state_display())

    @column("Opened by", ordering="principal")
    def who(self, obj: Any) -> str:
        return str(getattr(obj, "who_words", obj.principal))

    @column("Revision", ordering="protocol_version")
    def revision(self, obj: Session) -> str:
        return obj.protocol_version or "—"

    @column("Opened", ordering="opened_at")
    def opened(self, obj: Session) -> SafeString:
        return times(obj.opened_at)

    @column("Last active", ordering="last_active_at")
    def last_active(self, obj: Session) -> SafeString:
        return times(obj.last_active_at)
