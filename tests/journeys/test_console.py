"""What an operator does on the first day, in a real browser against the running platform."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, expect

from tests.clients import call_tool, list_tools, text_of
from tests.journeys.platform import Platform, TenantDoors, converse
from tests.waiting import wait_for

pytestmark = pytest.mark.browser
LIVE_WITHIN_MS = 60_000
HEALTHY_WITHIN_S = 60


@pytest.mark.acceptance("S4.1", "S4.7")
@pytest.mark.timeout(200)
def test_an_operator_signs_in_deploys_from_the_catalog_watches_it_go_live_and_turn_healthy(
    platform: Platform, tenant: TenantDoors, browser: Browser
):
    operator = platform.facts["operator"]
    context = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("response", lambda r: complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None)

    page.goto(platform.facts["console"])
    page.get_by_label("Email").fill(operator["email"])
    page.get_by_label("Password").fill(operator["password"])
    page.get_by_role("button", name="Sign in").click()

    page.goto(f"{platform.facts['console']}/deploy/")
    page.get_by_label("Tenant").select_option(tenant.rest.get(f"/tenants/{tenant.slug}")["id"])
    page.get_by_label("Slug").fill("first")
    page.get_by_role("button", name="Deploy", exact=True).click()
    page.wait_for_url(re.compile(r"/hosting/operation/[0-9a-z]{26}/$"))
    expect(page.get_by_text("Succeeded").first).to_be_visible(timeout=LIVE_WITHIN_MS)

    said = converse(
        "python-legacy",
        tenant.endpoint("first"),
        tenant.mcp_key,
        [list_tools(), call_tool("echo", message="hello")],
    )
    assert "hello" in text_of(said.answers[1])

    path = f"/tenants/{tenant.slug}/servers/first/environments/production"
    environment = tenant.rest.get(path)["id"]
    page.goto(f"{platform.facts['console']}/hosting/environment/{environment}/")

    def is_healthy() -> bool:
        page.reload()
        return page.get_by_text("Healthy").first.is_visible()

    wait_for(is_healthy, HEALTHY_WITHIN_S, what="the environment's page to say Healthy")
    context.close()
    assert complaints == []
