"""The page of an Operation: alive while it runs, honest when it failed."""

from __future__ import annotations

import re

import pytest
from django.utils import timezone
from playwright.sync_api import Locator, Page, expect

from hosting.models import Operation, Step
from hosting.provisioning.engine import STEPS
from smcp.common.tenancy import as_system
from smcp.console.pages.steps import TITLES
from tests.console.conftest import Visitor
from tests.console.world import World

pytestmark = pytest.mark.browser


def test_the_page_follows_the_rows_without_being_loaded_again(visitor: Visitor, world: World) -> None:
    page = visitor.open(f"/hosting/operation/{world.running.id}/")
    page.evaluate("window.neverLoadedAgain = true")
    probe, publish = page.locator(".c-step").nth(5), page.locator(".c-step").nth(6)
    expect(probe).to_have_attribute("data-state", "started")
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    expect(bar_of(page)).to_have_class("c-fill-busy")

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
    expect(bar_of(page)).to_have_class("c-fill-good")
    assert page.evaluate("window.neverLoadedAgain")
    page.reload()
    expect(bar_of(page)).to_have_class("c-fill-good")
    expect(bar_of(page)).to_have_attribute("width", "1000.0")


def bar_of(page: Page) -> Locator:
    return page.locator("#steps .c-meter rect")


def test_a_failed_operation_says_which_step_and_why(visitor: Visitor, world: World) -> None:
    page = visitor.open(f"/hosting/operation/{world.failed.id}/")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("“Wait until it answers” failed")
    expect(alert).to_contain_text("the Worker threw “ROWS is not defined <b>here</b>”")  # as text
    expect(alert).to_contain_text("What was serving before still serves.")
    expect(page.get_by_text("stopped at step 6 of 9")).to_be_visible()
    expect(page.locator(".c-step[data-state=failed]")).to_contain_text("Failed and undone")
    expect(page.locator(".c-step[data-state=undone]")).to_have_count(5)
    expect(bar_of(page)).to_have_class("c-fill-bad")


def test_steps_an_ended_operation_never_came_to_wait_for_nothing(visitor: Visitor, world: World) -> None:
    page = visitor.open(f"/hosting/operation/{world.failed.id}/")
    expect(page.locator(".c-step[data-state=skipped]")).to_have_count(3)
    expect(page.locator(".c-step").last).to_contain_text("Not reached")
    expect(page.locator("#steps")).not_to_contain_text("Waiting")


def test_the_lengths_of_steps_fit_into_what_the_operation_took(visitor: Visitor, world: World) -> None:
    page = visitor.open(f"/hosting/operation/{world.failed.id}/")
    lengths = page.locator(".c-step small").all_inner_texts()
    assert lengths[0] == "800 ms, undone in 100 ms"
    took = page.locator(".c-facts > div", has_text="Took").locator("dd").inner_text()
    assert 0 < sum(seconds_in(text) for text in lengths) <= seconds_in(took)


def seconds_in(text: str) -> float:
    """Of `800 ms, undone in 0.1 s`: 0.9."""
    return sum(
        float(number) / (1000 if unit == "ms" else 1)
        for number, unit in re.findall(r"([\d.]+) (ms|s)\b", text)
    )


def test_every_step_of_the_engine_has_a_title() -> None:
    names = {name for steps in STEPS.values() for name in steps}
    assert names == TITLES.keys()


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
