"""The audit trail. Append-only in the database too."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from smcp.common.audit import AuditEvent
from smcp.console.listing import ConsoleAdmin, column, link_to
from smcp.console.lists.cells import times
from smcp.console.pages.people import describe
from smcp.console.templatetags.console import short


@admin.register(AuditEvent)
class AuditAdmin(ConsoleAdmin):
    list_title = "Audit"
    list_display = ("action_code", "tenant_link", "who", "object_words", "what", "correlation_short", "when")
    search_fields = ("action", "object_id", "actor", "correlation", "tenant__slug")
    search_help_text = "Search by action, object id, actor, correlation id or tenant"
    empty_title = "Nothing has happened yet"
    empty_text = "Every change is written down here with who made it, in the same transaction as the change."

    def get_queryset(self, request: HttpRequest) -> QuerySet[AuditEvent]:
        return super().get_queryset(request).select_related("tenant")

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        answer = super().changelist_view(request, extra_context)
        cl = getattr(answer, "context_data", {}).get("cl")
        if cl is not None:
            people = describe(event.actor for event in cl.result_list)
            for event in cl.result_list:
                event.who_words = people.get(event.actor, event.actor)
        return answer

    @column("Action", ordering="action")
    def action_code(self, obj: AuditEvent) -> SafeString:
        return format_html('<code class="c-code c-strong">{}</code>', obj.action)

    @column("Tenant", ordering="tenant__slug")
    def tenant_link(self, obj: AuditEvent) -> SafeString:
        return link_to(obj.tenant)

    @column("Who", ordering="actor")
    def who(self, obj: Any) -> str:
        return str(getattr(obj, "who_words", obj.actor))

    @column("Object")
    def object_words(self, obj: AuditEvent) -> SafeString:
        return format_html("<span>{} {}</span>", obj.object_kind.replace("_", " "), short(obj.object_id[-8:]))

    @column("Detail")
    def what(self, obj: AuditEvent) -> SafeString:
        return details(obj.detail)

    @column("Correlation")
    def correlation_short(self, obj: AuditEvent) -> SafeString:
        return short(obj.correlation) if obj.correlation else link_to(None)

    @column("When", ordering="id")
    def when(self, obj: AuditEvent) -> SafeString:
        return times(obj.at)


def details(detail: dict[str, Any]) -> SafeString:
    """`reason: unpaid · slug: acme`. Long values are cut; the whole stands in the title."""
    if not detail:
        return link_to(None)
    rows = [(name.replace("_", " "), str(value), _cut(value)) for name, value in detail.items()]
    return format_html(
        '<span class="c-pairs">{}</span>',
        format_html_join("", '<span title="{1}"><small>{0}</small> {2}</span>', rows),
    )


def _cut(value: Any) -> str:
    if isinstance(value, dict):
        text = ", ".join(f"{k} {v}" for k, v in value.items())
    elif isinstance(value, list | tuple):
        text = ", ".join(str(v) for v in value)
    else:
        text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"
