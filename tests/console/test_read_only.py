"""What operators must not edit has no way to be edited: no button, no address."""

from __future__ import annotations

import httpx
import pytest
from playwright.sync_api import expect

from tests.console.conftest import Visitor
from tests.console.pages import LISTS
from tests.console.world import World

pytestmark = pytest.mark.browser
CHANGING = ("add", "change", "delete", "history")


def test_lists_offer_no_way_to_add_or_change_rows(visitor: Visitor, world: World) -> None:
    for path in LISTS:
        page = visitor.open(path)
        expect(page.locator("#changelist")).to_be_visible()
        for word in CHANGING:
            assert page.locator(f'a[href$="/{word}/"]').count() == 0, f"{path} offers {word}"
        assert page.locator("#changelist-form input[type=checkbox], #changelist-form button").count() == 0


def test_the_journal_the_ledger_and_versions_have_no_forms(visitor: Visitor, world: World) -> None:
    for path in (f"/hosting/operation/{world.failed.id}/", f"/hosting/version/{world.version.id}/"):
        page = visitor.open(path)
        expect(page.locator("#content")).to_be_visible()
        assert page.locator("#main form").count() == 0


def test_the_addresses_of_djangos_own_forms_do_not_exist(visitor: Visitor, world: World) -> None:
    cookies = {cookie["name"]: cookie["value"] for cookie in visitor.page.context.cookies()}
    with httpx.Client(base_url=visitor.url, cookies=cookies) as client:
        assert client.get("/").status_code == 200
        for path in LISTS:
            assert client.get(f"{path}add/").status_code == 404
        for word in CHANGING:
            assert client.get(f"/hosting/server/{world.server.id}/{word}/").status_code == 404


def test_actions_answer_only_to_post(visitor: Visitor, world: World) -> None:
    cookies = {cookie["name"]: cookie["value"] for cookie in visitor.page.context.cookies()}
    paths = [
        f"/tenants/tenant/{world.tenant.id}/suspend/",
        f"/tenants/tenant/{world.tenant.id}/resume/",
        f"/tenants/tenant/{world.tenant.id}/members/new/",
        f"/hosting/server/{world.server.id}/suspend/",
        f"/hosting/server/{world.server.id}/resume/",
        f"/hosting/server/{world.server.id}/retire/",
        f"/hosting/environment/{world.environment.id}/deploy/",
        f"/hosting/environment/{world.environment.id}/retire/",
        f"/hosting/environment/{world.environment.id}/end-sessions/",
        f"/hosting/session/{world.session.id}/end/",
    ]
    with httpx.Client(base_url=visitor.url, cookies=cookies) as client:
        for path in paths:
            assert client.get(path).status_code == 405, path
            assert client.post(path).status_code == 403, path  # no CSRF token
