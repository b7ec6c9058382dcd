"""Tenants in the console: made, suspended, resumed; their members and keys."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from playwright.sync_api import Error, expect

from smcp.common.audit import AuditEvent
from smcp.common.ids import new_id
from smcp.common.tenancy import as_system
from tenants.models import ApiKey, Member, Tenant, User
from tests import factories
from tests.console.conftest import Visitor

pytestmark = pytest.mark.browser


@pytest.fixture
def tenant(operator: User) -> Tenant:
    with as_system():
        return factories.make_tenant(name="Acme Corporation")


def test_a_tenant_is_created_with_a_slug_that_follows_its_name(visitor: Visitor) -> None:
    word = f"Zeta {new_id()[-8:]}"
    page = visitor.open("/tenants/tenant/new/")
    page.get_by_label("Name").fill(word)
    expect(page.get_by_label("Slug")).to_have_value(word.lower().replace(" ", "-"))
    page.get_by_role("button", name="Create the tenant").click()
    expect(page.get_by_role("heading", name=word, level=2)).to_be_visible()
    expect(page.get_by_text("No servers yet")).to_be_visible()


def test_a_slug_that_cannot_be_is_refused_at_its_field(visitor: Visitor, tenant: Tenant) -> None:
    page = visitor.open("/tenants/tenant/new/")
    for slug, reason in (("console", "reserved"), ("Not A Slug", "lowercase"), (tenant.slug, "Taken")):
        page.get_by_label("Name").fill("A name")
        page.get_by_label("Slug").fill(slug)
        page.get_by_role("button", name="Create the tenant").click()
        expect(page.locator(".c-field-bad .c-error")).to_contain_text(reason)


def test_suspending_needs_a_reason_and_resuming_takes_it_back(
    visitor: Visitor, tenant: Tenant, operator: User
) -> None:
    page = visitor.open(f"/tenants/tenant/{tenant.id}/")
    page.get_by_role("button", name="Suspend").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("The invoice is unpaid")
    dialog.get_by_role("button", name="Suspend").click()
    expect(page.get_by_text("Every endpoint answers 403: “The invoice is unpaid”")).to_be_visible()
    with as_system():
        tenant.refresh_from_db()
        event = AuditEvent.objects.get(tenant=tenant, action="tenant.suspended")
    assert tenant.state == Tenant.State.SUSPENDED
    assert event.actor == f"user:{operator.id}"

    page.get_by_role("button", name="Resume").click()
    page.get_by_role("dialog").get_by_role("button", name="Resume").click()
    expect(page.get_by_text("is active again")).to_be_visible()
    with as_system():
        tenant.refresh_from_db()
    assert tenant.state == Tenant.State.ACTIVE


def test_a_key_is_shown_once_and_only_its_digest_is_kept(visitor: Visitor, tenant: Tenant) -> None:
    page = visitor.open(f"/tenants/tenant/{tenant.id}/")
    page.get_by_role("link", name="Create a key").click()
    page.get_by_label("Name").fill("Ada's laptop")
    page.get_by_role("button", name="Create the key").click()
    expect(page.get_by_text("This is the only time the key is shown")).to_be_visible()
    secret = page.locator("#secret").inner_text()
    with as_system():
        key = ApiKey.objects.get(tenant=tenant)
    assert key.digest == hashlib.sha256(secret.encode()).hexdigest()
    assert key.scopes == [ApiKey.Scope.MCP_CALL]
    assert key.expires_at is not None

    page.get_by_role("link", name="I have copied it").click()
    row = page.locator("#keys tr", has_text="Ada's laptop")
    expect(row).to_contain_text(f"smcp_{key.prefix}_…")
    assert secret not in page.content()
    with pytest.raises(Error, match="ERR_CACHE_MISS"):
        page.go_back()  # the browser was told to keep nothing


def test_loading_the_shown_key_again_makes_no_second_one(visitor: Visitor, tenant: Tenant) -> None:
    page = visitor.open(f"/tenants/tenant/{tenant.id}/keys/new/")
    page.get_by_label("Name").fill("Ada's laptop")
    page.get_by_role("button", name="Create the key").click()
    secret = page.locator("#secret").inner_text()
    page.reload()
    expect(page.get_by_text("is shown only once")).to_be_visible()
    assert secret not in page.content()
    with as_system():
        assert ApiKey.objects.filter(tenant=tenant).count() == 1


def test_the_form_for_a_key_stays_in_its_card_on_a_phone(
    visit: Callable[..., Visitor], operator: User, tenant: Tenant
) -> None:
    visitor = visit(width=390)
    visitor.sign_in(operator)
    page = visitor.open(f"/tenants/tenant/{tenant.id}/keys/new/")
    edge = page.locator("form.c-card").evaluate("form => form.getBoundingClientRect().right")
    for label in page.locator("form.c-card label span, form.c-card .c-help").all():
        assert label.evaluate("element => element.getBoundingClientRect().right") < edge, label.inner_text()
        assert label.evaluate("element => element.scrollWidth <= element.clientWidth || !element.clientWidth")


def test_a_key_never_has_both_kinds_of_scope(visitor: Visitor, tenant: Tenant) -> None:
    page = visitor.open(f"/tenants/tenant/{tenant.id}/keys/new/")
    page.get_by_label("Name").fill("Too much")
    page.get_by_label("Read through the REST API").check()
    page.get_by_role("button", name="Create the key").click()
    expect(page.locator(".c-error")).to_contain_text("never mcp:call together with others")
    with as_system():
        assert not ApiKey.objects.filter(tenant=tenant).exists()


def test_a_revoked_key_stays_revoked(visitor: Visitor, tenant: Tenant) -> None:
    with as_system():
        key, _ = factories.make_api_key(tenant, name="Lost notebook")
    page = visitor.open(f"/tenants/tenant/{tenant.id}/")
    page.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.locator("#keys [data-state=revoked]")).to_be_visible()
    expect(page.get_by_role("button", name="Revoke")).to_have_count(0)
    with as_system():
        key.refresh_from_db()
    assert key.revoked_at is not None


def test_members_are_added_by_address_and_strangers_refused(visitor: Visitor, tenant: Tenant) -> None:
    with as_system():
        ada = factories.make_user()
    page = visitor.open(f"/tenants/tenant/{tenant.id}/")
    for email, words in (("nobody@example.com", "Nobody has an account"), (ada.email, "is a member of")):
        page.locator("#members").get_by_role("button", name="Add").click()
        page.get_by_role("dialog").get_by_label("E-mail address").fill(email)
        page.get_by_role("dialog").get_by_role("button", name="Add").click()
        expect(page.get_by_text(words).first).to_be_visible()
    with as_system():
        assert Member.objects.get(tenant=tenant).user_id == ada.id
