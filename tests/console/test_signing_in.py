"""Who may enter the console."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import expect

from smcp.common.tenancy import as_system
from tenants.models import User
from tests import factories
from tests.console.conftest import Visitor
from tests.console.pages import LISTS

pytestmark = pytest.mark.browser


def test_an_operator_signs_in_and_out(visit: Callable[..., Visitor], operator: User) -> None:
    visitor = visit()
    visitor.sign_in(operator)
    expect(visitor.page).to_have_title("Dashboard · SMCP")
    visitor.page.get_by_text(operator.email).first.click()
    visitor.page.get_by_role("button", name="Log out").click()
    visitor.open("/")
    expect(visitor.page.get_by_role("heading", name="Sign in to SMCP")).to_be_visible()


def test_a_wrong_password_is_refused_and_says_so(visit: Callable[..., Visitor], operator: User) -> None:
    visitor = visit()
    visitor.sign_in(operator, "not the password")
    expect(visitor.page.get_by_role("alert")).to_contain_text("correct email and password")
    expect(visitor.page).to_have_title("Sign in · SMCP")


def test_members_of_tenants_who_are_not_operators_never_enter(
    visit: Callable[..., Visitor], committed_db: None
) -> None:
    with as_system():
        member = factories.make_user()
        factories.make_member(factories.make_tenant(), member, "owner")
    visitor = visit()
    visitor.sign_in(member)
    expect(visitor.page.get_by_role("alert")).to_contain_text("staff account")
    visitor.open("/hosting/server/")
    expect(visitor.page.get_by_role("heading", name="Sign in to SMCP")).to_be_visible()


@pytest.mark.parametrize("path", ["/", "/live/", "/deploy/", "/tenants/tenant/new/", *LISTS])
def test_strangers_are_sent_to_the_sign_in_page(console: str, path: str) -> None:
    answer = httpx.get(console + path)
    assert answer.status_code == 302
    assert answer.headers["location"].startswith("/login/")


def test_pages_forbid_foreign_scripts_and_frames(console: str) -> None:
    headers = httpx.get(f"{console}/login/").headers
    policy = headers["content-security-policy"]
    assert "script-src 'self' 'unsafe-eval'" in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"


def test_a_form_without_its_token_changes_nothing(console: str) -> None:
    answer = httpx.post(f"{console}/login/", data={"username": "a@example.com", "password": "b"})
    assert answer.status_code == 403
    assert "Please try again" in answer.text


def test_static_files_are_served_by_the_console_itself_and_kept_by_browsers(console: str) -> None:
    page = httpx.get(f"{console}/login/").text
    start = page.index("/static/console/console.css?v=")
    sheet = httpx.get(console + page[start : page.index('"', start)])
    assert sheet.status_code == 200
    assert sheet.headers["content-type"].startswith("text/css")
    assert "max-age=2592000" in sheet.headers["cache-control"]
