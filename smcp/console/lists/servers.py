"""Servers, their Environments and their Versions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from django.contrib import admin
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from hosting.models import Deployment, Environment, Server, Version
from smcp.console import badges
from smcp.console.actions import deployments, servers, sessions
from smcp.console.listing import ConsoleAdmin, column, link_to
from smcp.console.lists.cells import health_counts, health_summary, times, two_lines
from smcp.console.lists.filters import Present
from smcp.console.pages import environment as environment_page
from smcp.console.pages import server as server_page
from smcp.console.pages import version as version_page
from smcp.console.pages.health import health_of
from smcp.console.templatetags.console import short, size

DEPLOY = ("Deploy from the catalog", "admin:console_deploy")


@admin.register(Server)
class ServerAdmin(ConsoleAdmin):
    list_display = (
        "server",
        "tenant_link",
        "kind_word",
        "state_badge",
        "environment_links",
        "health",
        "deployed",
    )
    list_display_links = ("server",)
    list_filter = (("kind", Present), ("catalog_slug", Present))
    search_fields = ("slug", "name", "tenant__slug", "tenant__name")
    search_help_text = "Search by server or tenant"
    chips, chips_family = "state", "server"
    page_template = "console/server.html"
    empty_title = "No servers yet"
    empty_text = "Deploy one from the catalog: it gets its own isolated Worker, storage and a protected endpoint within seconds."
    empty_link = list_button = DEPLOY

    def get_queryset(self, request: HttpRequest) -> QuerySet[Server]:
        deployed = (
            Deployment.objects.filter(environment__server=OuterRef("pk"))
            .order_by("-id")
            .values("created_at")[:1]
        )
        rows: QuerySet[Server] = (
            super()
            .get_queryset(request)
            .select_related("tenant")
            .prefetch_related("environments")
            .annotate(deployed_at=Subquery(deployed), **health_counts("server"))
        )
        return rows

    def posts(self) -> Sequence[tuple[str, str, Callable[..., HttpResponse]]]:
        return (
            ("suspend", "console_suspend_server", servers.suspend),
            ("resume", "console_resume_server", servers.resume),
            ("retire", "console_retire_server", servers.retire),
        )

    def page(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        return server_page.context(obj)

    @column("Server", ordering="slug", two_lines=True)
    def server(self, obj: Server) -> tuple[str, str]:
        return obj.name, obj.slug

    @column("Tenant", ordering="tenant__slug")
    def tenant_link(self, obj: Server) -> SafeString:
        return link_to(obj.tenant)

    @column("Kind", ordering="kind")
    def kind_word(self, obj: Server) -> str | SafeString:
        return (
            two_lines(obj.get_kind_display(), f"catalog: {obj.catalog_slug}")
            if obj.catalog_slug
            else obj.get_kind_display()
        )

    @column("State", ordering="state")
    def state_badge(self, obj: Server) -> SafeString:
        return badges.badge("server", obj.state, obj.get_state_display())

    @column("Environments")
    def environment_links(self, obj: Server) -> SafeString:
        shown = [e for e in obj.environments.all() if e.state != Environment.State.RETIRED]
        if not shown:
            return link_to(None)
        return format_html(
            '<span class="c-links">{}</span>', format_html_join("", "{}", [(link_to(e),) for e in shown])
        )

    @column("Health")
    def health(self, obj: Any) -> SafeString:
        return health_summary(obj.healthy_count, obj.slow_count, obj.unhealthy_count, obj.unknown_count)

    @column("Last deploy", ordering="deployed_at")
    def deployed(self, obj: Any) -> SafeString:
        return times(obj.deployed_at)


@admin.register(Environment)
class EnvironmentAdmin(ConsoleAdmin):
    list_display = (
        "environment",
        "tenant_link",
        "state_badge",
        "health_badge",
        "serving",
        "access_words",
        "account",
    )
    list_display_links = ("environment",)
    list_filter = (("slug", Present), "account")
    search_fields = ("slug", "server__slug", "server__name", "tenant__slug")
    search_help_text = "Search by server, tenant or environment"
    chips, chips_family = "state", "environment"
    page_template = "console/environment.html"
    empty_title = "No environments yet"
    empty_text = "Every server starts with one called production. Deploy a server to get the first."
    empty_link = list_button = DEPLOY

    def get_queryset(self, request: HttpRequest) -> QuerySet[Environment]:
        serving = (
            Deployment.objects.filter(environment=OuterRef("pk"), is_active=True)
            .values("targets__release__version__number")
            .order_by("-targets__percentage")
        )
        targets = (
            Deployment.objects.filter(environment=OuterRef("pk"), is_active=True)
            .order_by()
            .values("environment")
            .annotate(n=Count("targets"))
            .values("n")
        )
        rows: QuerySet[Environment] = (
            super()
            .get_queryset(request)
            .select_related("server__tenant", "account", "health", "remote")
            .defer("account__token_sealed")
            .annotate(serving_version=Subquery(serving[:1]), serving_count=Subquery(targets))
        )
        return rows

    def posts(self) -> Sequence[tuple[str, str, Callable[..., HttpResponse]]]:
        return (
            ("deploy", "console_deploy_version", deployments.deploy),
            ("retire", "console_retire_environment", deployments.retire),
            ("end-sessions", "console_end_all_sessions", sessions.end_all),
        )

    def page(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        return environment_page.context(obj, shown_range=request.GET.get("range", ""))

    @column("Environment", ordering="server__slug", two_lines=True)
    def environment(self, obj: Environment) -> tuple[str, str]:
        return obj.server.slug, obj.slug

    @column("Tenant", ordering="tenant__slug")
    def tenant_link(self, obj: Environment) -> SafeString:
        return link_to(obj.server.tenant)

    @column("State", ordering="state")
    def state_badge(self, obj: Environment) -> SafeString:
        return badges.badge("environment", obj.state, obj.get_state_display())

    @column("Health", ordering="health__state")
    def health_badge(self, obj: Environment) -> SafeString:
        health = health_of(obj)
        return badges.badge("health", health.state, health.get_state_display()) if health else link_to(None)

    @column("Serving", ordering="serving_version")
    def serving(self, obj: Any) -> str | SafeString:
        if obj.state == Environment.State.RETIRED:
            return link_to(None)
        if (remote := getattr(obj, "remote", None)) is not None:
            return two_lines("elsewhere", urlsplit(remote.url).hostname or "")
        if obj.serving_version is None:
            return format_html('<span class="c-none">{}</span>', "nothing yet")
        more = (obj.serving_count or 1) - 1
        return f"v{obj.serving_version}" + (f" and {more} more" if more else "")

    @column("Who may call")
    def access_words(self, obj: Environment) -> str | SafeString:
        if obj.state == Environment.State.RETIRED:
            return link_to(None)
        return (
            ", ".join(Environment.Access(a).label for a in obj.access if a in Environment.Access.values)
            or "nobody"
        )


@admin.register(Version)
class VersionAdmin(ConsoleAdmin):
    list_display = (
        "version",
        "server_link",
        "digest_short",
        "size_word",
        "compatibility",
        "module_count",
        "created",
    )
    list_display_links = ("version",)
    search_fields = ("server__slug", "tenant__slug", "digest")
    search_help_text = "Search by server, tenant or digest"
    page_template = "console/version.html"
    ordering = ("-id",)
    empty_title = "No versions yet"
    empty_text = "A version is one upload of a server's code, kept exactly as it came."
    empty_link = list_button = DEPLOY

    def get_queryset(self, request: HttpRequest) -> QuerySet[Version]:
        return super().get_queryset(request).select_related("server__tenant")

    def page(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        return version_page.context(obj)

    @column("Version", ordering="number", two_lines=True)
    def version(self, obj: Version) -> tuple[str, str]:
        return str(obj), str(obj.annotations.get("message") or obj.annotations.get("tag") or "")

    @column("Server", ordering="server__slug")
    def server_link(self, obj: Version) -> SafeString:
        return two_lines(link_to(obj.server), obj.server.tenant.slug)

    @column("Digest")
    def digest_short(self, obj: Version) -> SafeString:
        return short(obj.digest)

    @column("Size", ordering="size_bytes")
    def size_word(self, obj: Version) -> str:
        return size(obj.size_bytes)

    @column("Compatibility", ordering="compatibility_date")
    def compatibility(self, obj: Version) -> str:
        return f"{obj.compatibility_date:%Y-%m-%d}"

    @column("Modules")
    def module_count(self, obj: Version) -> int:
        return len(obj.modules)

    @column("Uploaded", ordering="id")
    def created(self, obj: Version) -> SafeString:
        return times(obj.created_at)
