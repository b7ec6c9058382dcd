"""Servers in the console: suspended, deployed, rolled back, retired, and made from the catalog."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from hosting.models import Environment, Operation, Release, Server
from smcp.common.ids import new_id
from smcp.common.tenancy import as_system
from tenants.models import Tenant
from tests import factories
from tests.console.conftest import Visitor
from tests.console.world import World

pytestmark = pytest.mark.browser
OPERATION_PAGE = re.compile(r"/hosting/operation/[0-9a-z]{26}/$")


def finish(operation: Operation) -> None:
    """Out of the way: one Operation at a time changes an Environment."""
    with as_system():
        Operation.objects.filter(id=operation.id).update(state=Operation.State.SUCCEEDED)


def row_of(page: Page, release: str) -> Locator:
    """Of a release by its whole name: the names of scripts may hold anything of two characters."""
    row = page.locator("#releases tr").filter(has=page.get_by_text(release, exact=True))
    expect(row).to_have_count(1)
    return row


def test_a_server_is_suspended_with_a_reason_and_resumed(visitor: Visitor, world: World) -> None:
    page = visitor.open(f"/hosting/server/{world.server.id}/")
    page.get_by_role("button", name="Suspend").click()
    page.get_by_role("dialog").get_by_label("Reason").fill("It sends spam")
    page.get_by_role("dialog").get_by_role("button", name="Suspend").click()
    expect(page.get_by_text("Its endpoints answer 403: “It sends spam”")).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("dialog").get_by_role("button", name="Resume").click()
    expect(page.get_by_text("serves again")).to_be_visible()
    with as_system():
        world.server.refresh_from_db()
    assert world.server.state == Server.State.ACTIVE


def test_retiring_needs_the_slug_typed(visitor: Visitor, world: World) -> None:
    finish(world.running)
    page = visitor.open(f"/hosting/server/{world.server.id}/")
    page.get_by_role("button", name="Retire").click()
    dialog = page.get_by_role("dialog")
    confirm = dialog.get_by_role("button", name="Retire for good")
    expect(confirm).to_be_disabled()
    dialog.get_by_role("textbox").fill("calculato")
    expect(confirm).to_be_disabled()
    dialog.get_by_role("textbox").fill("calculator")
    confirm.click()
    page.wait_for_url(OPERATION_PAGE)
    expect(page.get_by_role("heading", name="Retire Calculator", exact=True)).to_be_visible()
    with as_system():
        world.server.refresh_from_db()
    assert world.server.state == Server.State.RETIRING


def test_the_server_checks_the_typed_slug_too(visitor: Visitor, world: World) -> None:
    page = visitor.open(f"/hosting/server/{world.server.id}/")
    page.get_by_role("button", name="Retire").click()
    form = page.get_by_role("dialog").locator("form")
    form.get_by_role("textbox").fill("something else")
    form.evaluate("form => HTMLFormElement.prototype.submit.call(form)")
    expect(page.get_by_text("Nothing was retired")).to_be_visible()
    with as_system():
        world.server.refresh_from_db()
    assert world.server.state == Server.State.ACTIVE


def test_a_release_is_rolled_back_by_a_click_and_lands_on_the_live_operation(
    visitor: Visitor, world: World
) -> None:
    finish(world.running)
    page = visitor.open(f"/hosting/environment/{world.environment.id}/")
    row_of(page, "r1").get_by_role("button", name="Roll back").click()
    page.get_by_role("dialog").get_by_role("button", name="Roll back to v1").click()
    page.wait_for_url(OPERATION_PAGE)
    expect(page.locator(".c-steps")).to_contain_text("Publish the route")
    with as_system():
        operation = Operation.objects.filter(environment=world.environment).order_by("-id")[0]
    assert operation.requested_by == f"user:{world.operator.id}"
    assert [target["number"] for target in operation.input["targets"]] == [1]


def test_only_what_has_worked_can_be_rolled_back_to(visitor: Visitor, world: World) -> None:
    finish(world.running)
    with as_system():
        broken = factories.make_release(world.environment, world.version, state=Release.State.REMOVED)
        spare = factories.make_release(world.environment, world.version, state=Release.State.VERIFIED)
    page = visitor.open(f"/hosting/environment/{world.environment.id}/")
    expect(row_of(page, "r1").get_by_role("button")).to_have_text("Roll back")  # removed, but it served
    expect(row_of(page, str(broken)).get_by_role("button")).to_have_count(0)
    expect(row_of(page, str(spare)).get_by_role("button")).to_have_text("Go forward")
    expect(row_of(page, str(broken))).to_contain_text("never served")


def test_bindings_leave_scripts_out(visitor: Visitor, world: World) -> None:
    page = visitor.open(f"/hosting/environment/{world.environment.id}/")
    expect(page.locator("#bindings tbody tr")).to_have_count(3)
    expect(page.locator("#bindings")).not_to_contain_text("Script")


def test_what_is_retired_has_no_health(visitor: Visitor, world: World) -> None:
    with as_system():
        preview = Environment.objects.get(server=world.server, slug="preview")
    page = visitor.open(f"/hosting/environment/?q={world.tenant.slug}&state__exact=retired")
    expect(page.locator("#result_list tbody tr")).to_have_count(2)
    for path in (
        f"/hosting/environment/?q={world.tenant.slug}&state__exact=retired",
        f"/hosting/environment/{preview.id}/",
        f"/hosting/server/{world.retired.id}/",
    ):
        page = visitor.open(path)
        expect(page.locator("#content [data-state=retired]").first).to_be_visible()
        expect(page.locator("#content [data-state=healthy]")).to_have_count(0)
    page = visitor.open(f"/tenants/tenant/{world.tenant.id}/")
    expect(page.locator("#servers .c-envlink")).to_have_text(["production", "staging"])


def test_a_retired_server_offers_nothing_that_is_gone(visitor: Visitor, world: World) -> None:
    page = visitor.open(f"/hosting/server/{world.retired.id}/")
    expect(page.locator("#content")).to_contain_text("answers 404: it is retired")
    expect(page.get_by_role("button", name="Copy")).to_have_count(0)
    expect(page.get_by_text("Connect a client")).to_have_count(0)
    expect(page.get_by_text("Upload one")).to_have_count(0)


def test_a_version_may_get_a_share_of_the_traffic_first(visitor: Visitor, world: World) -> None:
    finish(world.running)
    page = visitor.open(f"/hosting/environment/{world.environment.id}/")
    page.get_by_role("button", name="Deploy a version").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Version").select_option(label="v2: Faster notes")
    dialog.get_by_label("Share of the traffic").fill("25")
    dialog.get_by_role("button", name="Deploy").click()
    page.wait_for_url(OPERATION_PAGE)
    with as_system():
        operation = Operation.objects.filter(environment=world.environment).order_by("-id")[0]
    asked = [(target["number"], target["percentage"]) for target in operation.input["targets"]]
    assert asked == [(2, "25"), (3, "75")]


def test_a_second_deploy_at_once_is_refused_with_a_sentence(visitor: Visitor, world: World) -> None:
    page = visitor.open(f"/hosting/environment/{world.environment.id}/")
    page.get_by_role("button", name="Deploy a version").click()
    page.get_by_role("dialog").get_by_role("button", name="Deploy").click()
    expect(page.get_by_text("A deploy is under way")).to_be_visible()
    expect(page).to_have_url(re.compile(f"/hosting/environment/{world.environment.id}/$"))


@pytest.fixture
def tenant(operator: object) -> Tenant:
    with as_system():
        factories.make_account()
        return factories.make_tenant(name=f"Tenant {new_id()[-6:]}")


def test_a_catalog_entry_is_deployed_by_a_click_and_lands_on_the_live_operation(
    visitor: Visitor, tenant: Tenant
) -> None:
    page = visitor.open(f"/deploy/?tenant={tenant.id}")
    expect(page.get_by_label("Tenant")).to_have_value(tenant.id)
    page.get_by_label("Slug").fill("my-starter")
    page.get_by_role("button", name="Deploy", exact=True).click()
    page.wait_for_url(OPERATION_PAGE)
    expect(page.get_by_text("Upload the code")).to_be_visible()
    with as_system():
        server = Server.objects.get(tenant=tenant)
        operation = Operation.objects.get(tenant=tenant)
        environment = Environment.objects.get(tenant=tenant)
    assert (server.slug, server.catalog_slug) == ("my-starter", "starter")
    assert (operation.kind, operation.environment_id) == (Operation.Kind.DEPLOY, environment.id)


def test_a_taken_slug_is_refused_at_its_field_and_makes_nothing(visitor: Visitor, tenant: Tenant) -> None:
    with as_system():
        factories.make_server(tenant, "starter")
    page = visitor.open(f"/deploy/?tenant={tenant.id}")
    page.get_by_role("button", name="Deploy", exact=True).click()
    expect(page.locator(".c-field-bad .c-error")).to_contain_text("Taken")
    with as_system():
        assert not Operation.objects.filter(tenant=tenant).exists()


def test_a_server_that_runs_elsewhere_shows_where_and_no_secret(visitor: Visitor, world: World) -> None:
    with as_system():
        server = factories.make_server(world.tenant, "elsewhere", name="Elsewhere", kind="remote")
        remote = factories.make_remote(
            server,
            headers=[{"name": "Authorization", "prefix": "Bearer ", "secret": "TOKEN"}],
            eras=["modern"],
            check_failure="It does not answer as an MCP server: it answered 500.",
        )
        factories.make_secret(remote.environment, "TOKEN")
    page = visitor.open(f"/hosting/environment/{remote.environment_id}/")
    where = page.locator("#elsewhere")
    expect(where.get_by_text("https://mcp.example.com/mcp")).to_be_visible()
    expect(where.get_by_text("it answered 500")).to_be_visible()
    expect(where.get_by_role("row", name="Authorization")).to_contain_text("Bearer lockTOKEN")
    expect(page.locator("#releases, #deployments, #bindings")).to_have_count(0)
    expect(page.get_by_role("button", name="Deploy")).to_have_count(0)
    page = visitor.open(f"/hosting/server/{server.id}/")
    expect(page.get_by_text("https://mcp.example.com/mcp")).to_be_visible()
    expect(page.locator("#versions")).to_have_count(0)
    page = visitor.open("/hosting/environment/?q=elsewhere")
    expect(page.get_by_text("mcp.example.com")).to_be_visible()
