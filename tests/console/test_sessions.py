"""Sessions in the console: who is connected, and ending one or all of an Environment's."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from hosting.models import Environment, Session
from smcp.common.tenancy import as_system
from tests.console.conftest import Visitor
from tests.console.world import World

pytestmark = pytest.mark.browser


def states(world: World) -> list[str]:
    with as_system():
        sessions = Session.objects.filter(environment=world.environment)
        return sorted(sessions.values_list("state", flat=True))


@pytest.mark.acceptance("S3.10")
def test_an_environment_shows_who_is_connected_and_how_many_more(visitor: Visitor, world: World) -> None:
    page = visitor.open(f"/hosting/environment/{world.environment.id}/")
    section = page.locator("#sessions")
    expect(section.locator("tbody tr")).to_have_count(4)
    expect(section).to_contain_text("4 open, 12.3 k more were opened while the list was full")
    first = section.locator("tbody tr").first
    for words in ("claude-ai 0.1.0", world.session.handle, "API key “Claude on Ada's laptop”", "2025-11-25"):
        expect(first).to_contain_text(words)
    expect(section.locator("tbody tr").nth(1)).to_contain_text("Anybody")
    expect(section).to_contain_text("A client without a name")
    expect(section).to_contain_text(f"{'x' * 39}…")
    assert (
        section.evaluate(
            "e => Math.max(...[...e.querySelectorAll('*')].map(c => c.scrollWidth - e.clientWidth))"
        )
        <= 0
    )
    section.get_by_role("link", name="All").click()
    expect(page.locator("#result_list tbody tr")).to_have_count(6)
    expect(page.locator("#result_list")).to_contain_text("<b>bold</b>")
    page.locator(".c-chip", has_text="Expired").click()
    expect(page.locator("#result_list tbody tr")).to_have_count(1)
    page = visitor.open(f"/hosting/server/{world.server.id}/")
    expect(page.locator("#environment-production .c-facts")).to_contain_text("Open sessions4")


@pytest.mark.acceptance("S3.11")
def test_a_session_is_ended_by_a_click(visitor: Visitor, world: World) -> None:
    page = visitor.open(f"/hosting/environment/{world.environment.id}/")
    page.locator("#sessions tbody tr").first.get_by_role("button", name="End").click()
    page.get_by_role("dialog").get_by_role("button", name="End the session").click()
    expect(page.get_by_text("The session has ended")).to_be_visible()
    expect(page.locator("#sessions tbody tr")).to_have_count(3)
    page = visitor.open(f"/hosting/session/{world.session.id}/")
    expect(page.locator(".c-facts")).to_contain_text(world.operator.email)
    expect(page.get_by_role("button", name="End")).to_have_count(0)
    page.goto(f"{visitor.url}/hosting/session/?environment__id__exact={world.environment.id}")
    page.get_by_role("link", name="mcp-inspector").click()
    page.get_by_role("button", name="End").click()
    page.get_by_role("dialog").get_by_role("button", name="End the session").click()
    expect(page.locator("[data-state=ended]")).to_be_visible()
    assert states(world).count("ended") == 3


@pytest.mark.acceptance("S3.11")
def test_all_sessions_of_an_environment_are_ended_by_a_click(visitor: Visitor, world: World) -> None:
    page = visitor.open(f"/hosting/environment/{world.environment.id}/")
    page.get_by_role("button", name="End all").click()
    page.get_by_role("dialog").get_by_role("button", name="End all").click()
    expect(page.get_by_text("All sessions of production have ended")).to_be_visible()
    expect(page.locator("#sessions")).to_contain_text("Nobody has a session open")
    expect(page.get_by_role("button", name="End all")).to_have_count(0)
    assert states(world) == ["ended"] * 5 + ["expired"]
    with as_system():
        assert Environment.objects.get(id=world.environment.id).sessions_after > 0


def test_a_retired_environment_offers_no_end(visitor: Visitor, world: World) -> None:
    with as_system():
        retired = Environment.objects.get(server=world.retired)
    page = visitor.open(f"/hosting/environment/{retired.id}/")
    expect(page.locator("#sessions")).to_contain_text("There are none any more")
    expect(page.get_by_role("button", name="End all")).to_have_count(0)
