"""Who may enter the console."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from django.core.management import CommandError, call_command
from playwright.sync_api import expect

from smcp.common.tenancy import as_system
from smcp.stack.operator import EMAIL
from tenants.models import User
from tenants.operations import ensure_operator
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
    expect(visitor.page).to_have_title("Signed out · SMCP")
    visitor.open("/")
    expect(visitor.page.get_by_role("heading", name="Sign in to SMCP")).to_be_visible()


def test_a_wrong_password_is_refused_and_says_so(visit: Callable[..., Visitor], operator: User) -> None:
    visitor = visit()
    visitor.sign_in(operator, "not the password")
    expect(visitor.page.get_by_role("alert")).to_contain_text("correct email and password")
    expect(visitor.page).to_have_title("Sign in · SMCP")


def test_the_sign_in_page_says_where_accounts_come_from(visit: Callable[..., Visitor]) -> None:
    page = visit().open("/login/")
    expect(page.locator(".c-login-foot")).to_contain_text("var/stack.json")
    expect(page.locator(".c-login-foot")).to_contain_text("manage.py create_operator")


def test_djangos_way_to_make_an_account_leads_to_ours() -> None:
    with pytest.raises(CommandError, match="create_operator"):
        call_command("createsuperuser", "--noinput", "--email", "boss@example.com")


def test_an_operator_changes_the_password(visitor: Visitor, operator: User) -> None:
    page = visitor.open("/password_change/")
    expect(page.get_by_text("Every start sets this password again")).to_have_count(0)
    page.get_by_label("Old password").fill(factories.PASSWORD)
    for label in ("New password", "New password confirmation"):
        page.get_by_label(label, exact=True).fill("another long password")
    page.get_by_role("button", name="Change password").click()
    expect(page).to_have_title("Your password was changed · SMCP")
    with as_system():
        operator.refresh_from_db()
    assert operator.check_password("another long password")


def test_the_operator_every_start_keeps_is_told_that_a_new_password_does_not_last(
    visit: Callable[..., Visitor], committed_db: None
) -> None:
    with as_system():
        kept = ensure_operator(email=EMAIL, password=factories.PASSWORD)
    visitor = visit()
    visitor.sign_in(kept)
    page = visitor.open("/password_change/")
    expect(page.locator(".c-note-warn")).to_contain_text("until the next start")
    expect(page.locator(".c-note-warn")).to_contain_text("operator_password")


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
