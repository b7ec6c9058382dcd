"""The audit trail. Append-only in the database too."""

from __future__ import annotations

import re
from collections.abc import Iterator
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
    nouns = ("change", "changes")
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
    """`reason: unpaid · access: api_key → public`. Ids are shortened; the whole stands in the title."""
    rows = [(name.replace("_", " "), *pair) for name, pair in _pairs(detail)]
    if not rows:
        return link_to(None)
    return format_html(
        '<span class="c-pairs">{}</span>',
        format_html_join("", '<span title="{2}"><small>{0}:</small> {1}</span>', rows),
    )


def _pairs(detail: dict[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    """(name, (shown, whole)). What a change replaced stands before what it became; what is null says nothing."""
    before, after = detail.get("before"), detail.get("after")
    if isinstance(before, dict) and isinstance(after, dict):
        for name in {**before, **after}:
            old, new = before.get(name), after.get(name)
            yield name, (f"{_say(old)} → {_say(new)}", f"{_say(old, whole=True)} → {_say(new, whole=True)}")
    for name, value in detail.items():
        if value is not None and not (name in {"before", "after"} and isinstance(value, dict)):
            yield name, (_say(value), _say(value, whole=True))


def _say(value: Any, *, whole: bool = False) -> str:
    """JSON as people write it: `yes`, `api:read, api:write`, `version 3, 100 %`."""
    if value is None or value in ([], {}, ""):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(
            _say_field(str(name), field, whole) for name, field in value.items() if field is not None
        )
    if isinstance(value, list):
        between = "; " if any(isinstance(entry, dict | list) for entry in value) else ", "
        return between.join(_say(entry, whole=whole) for entry in value)
    text = str(value)
    return text if whole else _LONG_NAME.sub(lambda found: f"…\N{WORD JOINER}{found[0][-8:]}", text)


def _say_field(name: str, value: Any, whole: bool) -> str:
    if name == "id":
        return _say(value, whole=whole)
    if name == "percentage":
        return f"{float(value):g}\N{NO-BREAK SPACE}%"
    if isinstance(value, bool) and name.startswith("is_"):
        return f"{'' if value else 'not '}{name.removeprefix('is_')}"
    return f"{name.replace('_', ' ')} {_say(value, whole=whole)}"


#: Ids and digests: nobody reads them, and their ends differ.
_LONG_NAME = re.compile(r"\b(?:[0-9a-hjkmnp-tv-z]{26}|[0-9a-f]{32,64})\b")
