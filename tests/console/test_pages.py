"""Every page, empty and full, wide and narrow, light and dark: it renders, complains of nothing and fits the screen."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from hosting.models import Environment
from smcp.common.audit import AuditEvent
from smcp.common.tenancy import as_system
from tenants.models import User
from tests.console.conftest import Visitor
from tests.console.pages import LISTS
from tests.console.world import World
from tests.factories import make_environment, make_server

pytestmark = pytest.mark.browser
CONTRAST = Path(__file__).with_name("contrast.js").read_text()


def fits(page: Page) -> bool:
    """Nothing sticks out to the right."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_every_page_of_a_busy_platform_renders(
    visit: Callable[..., Visitor], world: World, width: int, scheme: str
) -> None:
    visitor = visit(width=width, scheme=scheme)
    visitor.sign_in(world.operator)
    expect(visitor.page).to_have_title("Dashboard · SMCP")
    for path in ("/", "/deploy/", "/tenants/tenant/new/", "/password_change/", *LISTS, *details_of(world)):
        page = visitor.open(path)
        expect(page.locator("#content")).to_be_visible()
        assert fits(page), f"{path} is wider than the screen"
        assert page.title().endswith(" · SMCP"), f"{path} is called {page.title()}"


def details_of(world: World) -> tuple[str, ...]:
    with as_system():
        retired = Environment.objects.get(server=world.retired)
    return (
        f"/tenants/tenant/{world.tenant.id}/",
        f"/tenants/tenant/{world.tenant.id}/keys/new/",
        f"/hosting/server/{world.server.id}/",
        f"/hosting/server/{world.retired.id}/",
        f"/hosting/environment/{world.environment.id}/",
        f"/hosting/environment/{world.environment.id}/?range=30d",
        f"/hosting/environment/{retired.id}/",
        f"/hosting/version/{world.version.id}/",
        f"/hosting/session/{world.session.id}/",
        f"/hosting/operation/{world.running.id}/",
        f"/hosting/operation/{world.failed.id}/",
        f"/hosting/account/{world.account.id}/",
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(visit: Callable[..., Visitor], world: World, scheme: str) -> None:
    with as_system():  # more than one page of them
        AuditEvent.objects.bulk_create(
            AuditEvent(tenant=world.tenant, actor="system", action="a.b", object_kind="server", object_id="x")
            for _ in range(51)
        )
    visitor = visit(scheme=scheme)
    page = visitor.open("/login/")
    assert page.evaluate(CONTRAST) == []
    visitor.sign_in(world.operator)
    for path in ("/", "/deploy/", "/tenants/tenant/new/", "/password_change/", *LISTS, *details_of(world)):
        page = visitor.open(path)
        assert page.evaluate(CONTRAST) == [], path


def test_lists_say_what_their_rows_are(visitor: Visitor, world: World) -> None:
    for path, words in (("flip", r"\d+ changes"), ("healthstate", r"\d+ environments")):
        page = visitor.open(f"/hosting/{path}/")
        expect(page.get_by_text(re.compile(words))).to_be_visible()
    page = visitor.open("/hosting/flip/?q=billing")
    expect(page.locator("#result_list")).to_contain_text("upstream error")
    page = visitor.open("/hosting/version/")
    expect(page.locator("#result_list .field-compatibility").first).to_have_text("2026-11-01")


def test_filters_offer_only_what_there_is(visitor: Visitor, world: World) -> None:
    page = visitor.open("/hosting/server/?catalog_slug__exact=starter")
    page.get_by_text(re.compile(r"^\s*Filters")).click()
    filters = page.locator("#changelist-filter")
    expect(filters.locator("li", has_text="starter")).to_be_visible()
    assert "" not in [text.strip() for text in filters.locator("li").all_inner_texts()]
    expect(filters).not_to_contain_text("Aggregates Servers")
    expect(filters).not_to_contain_text("Runs elsewhere")


def test_chips_count_what_the_list_would_show(visitor: Visitor, world: World) -> None:
    page = visitor.open(f"/hosting/healthstate/?q={world.tenant.slug}")
    expect(page.locator("#result_list tbody tr")).to_have_count(2)
    expect(page.locator(".c-chip", has_text="All")).to_have_text(re.compile(r"All\s*2"))
    expect(page.locator(".c-chip", has_text="Healthy")).to_have_text(re.compile(r"Healthy\s*1"))
    page.locator(".c-chip", has_text="Healthy").click()
    expect(page.locator("#result_list tbody tr")).to_have_count(1)
    expect(page.locator(".c-chip", has_text="All")).to_have_text(re.compile(r"All\s*2"))


def test_every_page_of_an_empty_platform_says_what_to_do_next(
    visit: Callable[..., Visitor], empty_console: str
) -> None:
    visitor = visit(empty_console)
    visitor.sign_in(User(email="empty@example.com"))
    expect(visitor.page.get_by_role("heading", name="Three steps to the first server")).to_be_visible()
    for path in LISTS:
        page = visitor.open(path)
        expect(page.locator(".c-empty h2")).to_be_visible()
    page = visitor.open("/deploy/")
    page.locator("#content").get_by_role("link", name="Create a tenant").click()
    expect(page).to_have_title("Create a tenant · SMCP")


def test_what_was_never_deployed_has_pages_too(visitor: Visitor, world: World) -> None:
    with as_system():
        server = make_server(world.tenant)
        environment = make_environment(server, world.account)
    page = visitor.open(f"/hosting/server/{server.id}/")
    expect(page.get_by_text("nothing yet")).to_be_visible()
    page = visitor.open(f"/hosting/environment/{environment.id}/")
    expect(page.locator("#health")).to_contain_text("never")


def test_the_dashboard_counts_and_names_what_is_wrong(visitor: Visitor, world: World) -> None:
    page = visitor.open("/")
    expect(page.locator(".c-tile", has_text="Tenants")).to_be_visible()
    expect(page.locator(".c-chart")).to_be_visible()
    running = page.locator(f'a[href="/hosting/operation/{world.running.id}/"]')
    expect(running).to_contain_text("Deploy calculator")
    expect(running).to_contain_text("5 of 9")
    expect(page.locator(f'a[href="/hosting/operation/{world.failed.id}/"]')).to_contain_text(
        "ROWS is not defined"
    )


def test_lists_find_what_is_searched_and_narrow_by_state(visitor: Visitor, world: World) -> None:
    page = visitor.open(f"/tenants/tenant/?q={world.tenant.slug}")
    expect(page.locator("#result_list tbody tr")).to_have_count(1)
    page = visitor.open("/tenants/tenant/?q=nothing-like-this")
    expect(page.get_by_role("heading", name="Nothing matches")).to_be_visible()
    page = visitor.open(f"/hosting/operation/?server__id__exact={world.server.id}")
    expect(page.locator("#result_list tbody tr")).to_have_count(3)
    page.locator(".c-chip", has_text="Failed").click()
    expect(page.locator("#result_list tbody tr")).to_have_count(1)
    expect(page.locator("#result_list [data-state=failed]")).to_be_visible()


def test_the_endpoint_can_be_copied_with_settings_for_clients(visitor: Visitor, world: World) -> None:
    page = visitor.open(f"/hosting/environment/{world.environment.id}/")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy endpoint").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    endpoint = page.evaluate("navigator.clipboard.readText()")
    assert endpoint.endswith(f"/{world.tenant.slug}/calculator/mcp")
    page.get_by_text("Connect a client").click()
    expect(page.get_by_text('"mcpServers"')).to_be_visible()


def test_secrets_and_tokens_are_on_no_page(visitor: Visitor, world: World) -> None:
    page = visitor.open(f"/hosting/environment/{world.environment.id}/")
    expect(page.get_by_text("STRIPE_KEY")).to_be_visible()
    assert "a-secret" not in page.content()
    sealed = world.environment.secrets.first()
    assert sealed is None or sealed.sealed not in page.content()
    page = visitor.open(f"/hosting/account/{world.account.id}/")
    assert world.account.token_sealed not in page.content()


def test_an_unknown_object_is_a_page_that_leads_back(visit: Callable[..., Visitor], operator: User) -> None:
    visitor = visit()
    visitor.sign_in(operator)
    expect(visitor.page).to_have_title("Dashboard · SMCP")
    visitor.open("/hosting/server/01aaaaaaaaaaaaaaaaaaaaaaaa/")
    expect(visitor.page.get_by_role("heading", name="Not found")).to_be_visible()
    visitor.page.get_by_role("link", name="Back to the dashboard").click()
    expect(visitor.page).to_have_title("Dashboard · SMCP")
    assert all("404" in complaint for complaint in visitor.complaints)
    visitor.complaints.clear()
