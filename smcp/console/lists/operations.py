"""Operations: the journal. Nobody edits it; it tells what happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from hosting.models import Operation
from smcp.console import badges
from smcp.console.listing import ConsoleAdmin, column, link_to
from smcp.console.lists.cells import times, two_lines
from smcp.console.lists.filters import Present
from smcp.console.pages import operation as page
from smcp.console.pages.steps import title_of
from smcp.console.templatetags.console import took


@admin.register(Operation)
class OperationAdmin(ConsoleAdmin):
    list_display = ("operation", "target", "tenant_link", "state_badge", "progress", "duration", "started")
    list_display_links = ("operation",)
    list_filter = (("kind", Present),)
    search_fields = ("id", "server__slug", "tenant__slug", "correlation")
    search_help_text = "Search by server, tenant, id or correlation id"
    chips, chips_family = "state", "operation"
    page_template = "console/operation.html"
    empty_title = "No operations yet"
    empty_text = "Deploying and retiring are operations: journals of steps that survive crashes. Start one by deploying a server."
    empty_link = ("Deploy from the catalog", "admin:console_deploy")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Operation]:
        rows: QuerySet[Operation] = (
            super()
            .get_queryset(request)
            .select_related("server__tenant", "environment")
            .annotate(step_count=Count("steps"), done_count=Count("steps", filter=Q(steps__state="done")))
        )
        return rows

    def posts(self) -> Sequence[tuple[str, str, Callable[..., HttpResponse]]]:
        return (("live", "console_operation_live", self.live),)

    def page(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        return {**page.context(obj), "title": f"{obj.get_kind_display()} {obj.server.slug}"}

    def live(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The moving part of the page, fetched again while the Operation runs."""
        operation = self.get_queryset(request).filter(pk=object_id).first()
        if operation is None:
            raise Http404
        answer = TemplateResponse(request, "console/parts/operation.html", page.context(operation))
        answer.headers["SMCP-Live"] = "over" if operation.is_finished else "on"
        return answer

    @column("Operation", ordering="id", two_lines=True)
    def operation(self, obj: Operation) -> tuple[str, str]:
        return obj.get_kind_display(), obj.id[-8:]

    @column("Where", ordering="server__slug")
    def target(self, obj: Operation) -> SafeString:
        if obj.environment is None:
            return link_to(obj.server)
        return two_lines(link_to(obj.server), link_to(obj.environment))

    @column("Tenant", ordering="tenant__slug")
    def tenant_link(self, obj: Operation) -> SafeString:
        return link_to(obj.server.tenant)

    @column("State", ordering="state")
    def state_badge(self, obj: Operation) -> SafeString:
        return badges.badge("operation", obj.state, obj.get_state_display())

    @column("Steps")
    def progress(self, obj: Any) -> str | SafeString:
        if obj.state == Operation.State.FAILED and obj.error:
            step = title_of(str(obj.error.get("step", "")))
            return format_html(
                '<span class="c-bad-text" title="{}">{}</span>',
                obj.error.get("message", ""),
                step or "failed",
            )
        return f"{obj.done_count} of {obj.step_count}"

    @column("Took")
    def duration(self, obj: Operation) -> str:
        return took(obj.created_at, obj.finished_at)

    @column("Asked for", ordering="created_at")
    def started(self, obj: Operation) -> SafeString:
        return times(obj.created_at)
