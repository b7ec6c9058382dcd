"""The page of an Operation: alive while it runs, honest when it failed."""

from __future__ import annotations

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from hosting.models import Operation, Step
from smcp.common.tenancy import as_system
from tests.console.conftest import Visitor
from tests.console.world import World

pytestmark = pytest.mark.browser


def test_the_page_follows_the_rows_without_being_loaded_again(visitor: Visitor, world: World) -> None:
    page = visitor.open(f"/hosting/operation/{world.running.id}/")
    page.evaluate("window.neverLoadedAgain = true")
    probe, publish = page.locator(".c-step").nth(5), page.locator(".c-step").nth(6)
    expect(probe).to_have_attribute("data-state", "started")
    expect(page.get_by_text("live", exact=True)).to_be_visible()

    with as_system():
        steps = Step.objects.filter(operation=world.running)
        steps.filter(position=5).update(message="No answer yet: 503", attempts=4)
    expect(probe).to_contain_text("No answer yet: 503")
    expect(probe).to_contain_text("4 attempts")

    with as_system():
        steps.filter(position=5).update(state=Step.State.DONE, message="", finished_at=timezone.now())
        steps.filter(position=6).update(state=Step.State.STARTED, started_at=timezone.now())
    expect(probe).to_have_attribute("data-state", "done")
    expect(publish).to_have_attribute("data-state", "started")
    expect(page.get_by_text("6 of 9 done")).to_be_visible()

    with as_system():
        steps.update(state=Step.State.DONE, finished_at=timezone.now())
        Operation.objects.filter(id=world.running.id).update(
            state=Operation.State.SUCCEEDED, finished_at=timezone.now()
        )
    expect(page.locator(".c-hero [data-state=succeeded]")).to_be_visible()
    expect(page.get_by_text("live", exact=True)).to_have_count(0)
    assert page.evaluate("window.neverLoadedAgain")


def test_a_failed_operation_says_which_step_and_why(visitor: Visitor, world: World) -> None:
    page = visitor.open(f"/hosting/operation/{world.failed.id}/")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("“Wait until it answers” failed")
    expect(alert).to_contain_text("the Worker threw “ROWS is not defined <b>here</b>”")  # as text
    expect(alert).to_contain_text("What was serving before still serves.")
    expect(page.get_by_text("stopped at step 6 of 9")).to_be_visible()
    expect(page.locator(".c-step[data-state=failed]")).to_contain_text("Failed and undone")
    expect(page.locator(".c-step[data-state=undone]")).to_have_count(5)


def test_the_dashboard_follows_too(visitor: Visitor, world: World) -> None:
    page = visitor.open("/")
    row = page.locator(f'a[href="/hosting/operation/{world.running.id}/"]')
    expect(row).to_contain_text("5 of 9")
    with as_system():
        Step.objects.filter(operation=world.running, position=5).update(state=Step.State.DONE)
    expect(row).to_contain_text("6 of 9", timeout=15_000)


def test_a_page_left_open_asks_to_sign_in_again_when_the_session_has_ended(
    visitor: Visitor, world: World
) -> None:
    page = visitor.open(f"/hosting/operation/{world.running.id}/")
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    page.context.clear_cookies()
    expect(page.get_by_role("heading", name="Sign in to SMCP")).to_be_visible()
