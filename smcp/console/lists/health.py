"""Health: what we believe of each Environment, and the evidence."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from hosting.models import Flip, HealthState, Incident, Probe
from smcp.console import badges
from smcp.console.listing import ConsoleAdmin, column, link_to
from smcp.console.lists.cells import times, two_lines
from smcp.console.lists.filters import Present
from smcp.console.templatetags.console import ms, took, words


class _OfEnvironment(ConsoleAdmin):
    tabs = (
        ("States", "admin:hosting_healthstate_changelist"),
        ("Incidents", "admin:hosting_incident_changelist"),
        ("Changes", "admin:hosting_flip_changelist"),
        ("Probes", "admin:hosting_probe_changelist"),
    )
    search_fields = ("environment__server__slug", "tenant__slug")
    search_help_text = "Search by server or tenant"

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).select_related("environment__server__tenant")

    @column("Environment", ordering="environment__server__slug")
    def where(self, obj: HealthState | Probe | Flip | Incident) -> SafeString:
        environment = obj.environment
        return two_lines(link_to(environment, environment.server.slug, strong=True), environment.slug)

    @column("Tenant", ordering="tenant__slug")
    def tenant_link(self, obj: HealthState | Probe | Flip | Incident) -> SafeString:
        return link_to(obj.environment.server.tenant)


@admin.register(HealthState)
class HealthAdmin(_OfEnvironment):
    list_title = "Health"
    nouns = ("environment", "environments")
    list_display = (
        "where",
        "tenant_link",
        "state_badge",
        "for_how_long",
        "latency",
        "reason",
        "seen",
        "next_look",
    )
    chips, chips_family = "state", "health"
    empty_title = "Nothing to watch yet"
    empty_text = (
        "Once a server is deployed, its health is read from real traffic, and from probes when it is quiet."
    )
    empty_link = ("Deploy from the catalog", "admin:console_deploy")

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).exclude(environment__state="retired")

    @column("Health", ordering="state")
    def state_badge(self, obj: HealthState) -> SafeString:
        return badges.badge("health", obj.state, obj.get_state_display())

    @column("For", ordering="-since")
    def for_how_long(self, obj: HealthState) -> str:
        return took(obj.since)

    @column("Last latency", ordering="last_latency_ms")
    def latency(self, obj: HealthState) -> str:
        return ms(obj.last_latency_ms)

    @column("Last failure")
    def reason(self, obj: HealthState) -> str:
        return words(obj.last_failure) or "—"

    @column("Last seen", ordering="last_seen_at")
    def seen(self, obj: HealthState) -> SafeString:
        return times(obj.last_seen_at)

    @column("Next look", ordering="next_probe_at")
    def next_look(self, obj: HealthState) -> SafeString:
        return times(obj.next_probe_at)


@admin.register(Probe)
class ProbeAdmin(_OfEnvironment):
    list_title = "Probes"
    list_display = ("where", "tenant_link", "verdict", "latency", "era", "at_time")
    list_filter = ("is_ok", ("era", Present))
    empty_title = "No probes in the last day"
    empty_text = "Probes are sent when an environment has no traffic of its own. They are kept for a day."

    @column("Verdict", ordering="is_ok")
    def verdict(self, obj: Probe) -> SafeString:
        if obj.is_ok:
            return badges.badge("probe", "ok", "Answered")
        return badges.badge("probe", "failed", words(obj.failure).capitalize() or "Failed")

    @column("Latency", ordering="latency_ms")
    def latency(self, obj: Probe) -> str:
        return ms(obj.latency_ms)

    @column("When", ordering="id")
    def at_time(self, obj: Probe) -> SafeString:
        return times(obj.at)


@admin.register(Flip)
class FlipAdmin(_OfEnvironment):
    list_title = "Changes of health"
    nouns = ("change", "changes")
    list_display = ("where", "tenant_link", "old_badge", "new_badge", "why", "at_time")
    empty_title = "No changes of health yet"
    empty_text = "When an environment turns slow, stops answering or recovers, it is written down here."

    @column("Was")
    def old_badge(self, obj: Flip) -> SafeString:
        return badges.badge("health", obj.old, obj.get_old_display())

    @column("Became", ordering="new")
    def new_badge(self, obj: Flip) -> SafeString:
        return badges.badge("health", obj.new, obj.get_new_display())

    @column("Reason")
    def why(self, obj: Flip) -> str:
        return words(obj.reason) or "—"

    @column("When", ordering="id")
    def at_time(self, obj: Flip) -> SafeString:
        return times(obj.at)


@admin.register(Incident)
class IncidentAdmin(_OfEnvironment):
    list_title = "Incidents"
    list_display = ("where", "tenant_link", "state_badge", "why", "started", "lasted")
    empty_title = "No incidents"
    empty_text = "An incident is the time between a server that stops answering and its recovery. Long may this page stay empty."

    @column("State", ordering="ended_at")
    def state_badge(self, obj: Incident) -> SafeString:
        return (
            badges.badge("incident", "over", "Over")
            if obj.ended_at
            else badges.badge("incident", "open", "Going on")
        )

    @column("Reason")
    def why(self, obj: Incident) -> str:
        return words(obj.reason) or "—"

    @column("Started", ordering="started_at")
    def started(self, obj: Incident) -> SafeString:
        return times(obj.started_at)

    @column("Lasted")
    def lasted(self, obj: Incident) -> str:
        return took(obj.started_at, obj.ended_at)
