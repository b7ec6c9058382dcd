"""The REST API's reference in a real browser: everything it shows comes from the API's own door."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.restdoor import RestDoor


@pytest.mark.browser
@pytest.mark.acceptance("S4.22")
def test_the_reference_shows_every_noun_and_asks_nobody_else(rest_door: RestDoor, browser: Browser):
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on(
        "console",
        lambda message: complaints.append(message.text) if message.type in {"error", "warning"} else None,
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{rest_door.url}/api/v1/docs")
    expect(page.get_by_role("heading", name="SMCP")).to_be_visible()
    for noun in ("tenants", "servers", "versions", "deployments", "operations"):
        expect(page.locator(f"h3[data-tag={noun}]")).to_be_visible()
    context.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith((rest_door.url, "data:", "blob:"))] == []
