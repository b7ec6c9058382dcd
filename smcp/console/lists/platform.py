"""Resources (the ledger) and Accounts."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from hosting.models import Account, Environment, Resource
from smcp.console import badges, charts
from smcp.console.listing import ConsoleAdmin, column, link_to
from smcp.console.lists.cells import times, two_lines
from smcp.console.pages import account as page


@admin.register(Resource)
class ResourceAdmin(ConsoleAdmin):
    list_display = ("name_code", "kind_word", "state_badge", "where", "account_link", "created")
    list_filter = ("kind", "account")
    search_fields = ("name", "cloudflare_id", "environment__server__slug", "tenant__slug")
    search_help_text = "Search by name, Cloudflare's id, server or tenant"
    chips, chips_family = "state", "resource"
    empty_title = "The ledger is empty"
    empty_text = "Everything created at Cloudflare is written down here first: scripts, KV namespaces, R2 buckets and D1 databases."
    empty_link = ("Deploy from the catalog", "admin:console_deploy")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Resource]:
        return (
            super()
            .get_queryset(request)
            .select_related("environment__server__tenant", "account")
            .defer("account__token_sealed")
        )

    @column("Name", ordering="name")
    def name_code(self, obj: Resource) -> SafeString:
        code = format_html('<code class="c-code">{}</code>', obj.name)
        if obj.cloudflare_id and obj.cloudflare_id != obj.name:
            return two_lines(code, format_html('<code class="c-code">{}</code>', obj.cloudflare_id))
        return code

    @column("Kind", ordering="kind")
    def kind_word(self, obj: Resource) -> str:
        return page.kind_label(obj.kind)

    @column("State", ordering="state")
    def state_badge(self, obj: Resource) -> SafeString:
        return badges.badge("resource", obj.state, obj.get_state_display())

    @column("Environment", ordering="environment__server__slug")
    def where(self, obj: Resource) -> SafeString:
        server = obj.environment.server
        return two_lines(
            link_to(obj.environment, f"{server.slug} / {obj.environment.slug}"), server.tenant.slug
        )

    @column("Account", ordering="account__name")
    def account_link(self, obj: Resource) -> SafeString:
        return link_to(obj.account)

    @column("Created", ordering="id")
    def created(self, obj: Resource) -> SafeString:
        return times(obj.created_at)


@admin.register(Account)
class AccountAdmin(ConsoleAdmin):
    list_display = ("account", "state_badge", "ready", "room", "namespace", "created")
    list_display_links = ("account",)
    search_fields = ("name", "cloudflare_account_id")
    search_help_text = "Search by name or Cloudflare's id"
    page_template = "console/account.html"
    empty_title = "No account connected"
    empty_text = "Servers run in a Cloudflare account or in the local edge. “make up” connects the one named by CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN."

    def get_queryset(self, request: HttpRequest) -> QuerySet[Account]:
        used = (
            Environment.objects.filter(account=OuterRef("pk"))
            .exclude(state=Environment.State.RETIRED)
            .order_by()
            .values("account")
            .annotate(n=Count("pk"))
            .values("n")
        )
        rows: QuerySet[Account] = (
            super().get_queryset(request).defer("token_sealed").annotate(used=Subquery(used))
        )
        return rows

    def page(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        return page.context(obj)

    @column("Account", ordering="name", two_lines=True)
    def account(self, obj: Account) -> tuple[str, str]:
        return obj.name, obj.cloudflare_account_id

    @column("State", ordering="state")
    def state_badge(self, obj: Account) -> SafeString:
        return badges.badge("account", obj.state, obj.get_state_display())

    @column("Ready since", ordering="ready_at")
    def ready(self, obj: Account) -> SafeString:
        return times(obj.ready_at)

    @column("Environments", ordering="used")
    def room(self, obj: Any) -> SafeString:
        used = obj.used or 0
        return format_html(
            '<span class="c-room">{}<span>{} of {}</span></span>',
            charts.meter(used, obj.capacity),
            used,
            obj.capacity,
        )

    @column("Dispatch namespace")
    def namespace(self, obj: Account) -> SafeString:
        return format_html('<code class="c-code">{}</code>', obj.dispatch_namespace)

    @column("Connected", ordering="created_at")
    def created(self, obj: Account) -> SafeString:
        return times(obj.created_at)
