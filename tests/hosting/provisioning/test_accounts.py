"""An account is made ready once, and again only where something changed; the ledger and the account are compared."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django import Settings

from hosting import names
from hosting.cloudflare.errors import Unauthorised
from hosting.cloudflare.port import ResourceKind
from hosting.models import Account, Environment, Resource
from hosting.provisioning import accounts, reconciler
from hosting.provisioning.accounts import ensure_dispatcher, open_cloudflare
from hosting.provisioning.releases import compose_upload
from smcp.common.ids import new_id
from smcp.common.tenancy import as_system
from tests.hosting.provisioning.world import World
from tests.parts import PlatformEdge

NO_GRACE = timedelta(0)


def test_making_an_account_ready_again_changes_nothing(account: Account, edge: PlatformEdge) -> None:
    out = StringIO()
    call_command("ensure_account", stdout=out)
    assert "is ready" in out.getvalue()
    assert edge.token not in out.getvalue()
    with as_system():
        assert Account.objects.filter(cloudflare_account_id=edge.account_id).count() == 1
    assert not ensure_dispatcher(open_cloudflare(account.id), edge.account_id)


def test_a_new_key_puts_the_dispatcher_up_again(
    account: Account, edge: PlatformEdge, settings: Settings
) -> None:
    before = dict(settings.DISPATCH_KEYS)
    settings.DISPATCH_KEYS = {**before, "next": bytes(range(32))}
    assert ensure_dispatcher(open_cloudflare(account.id), edge.account_id)
    assert not ensure_dispatcher(open_cloudflare(account.id), edge.account_id)
    settings.DISPATCH_KEYS = before
    assert ensure_dispatcher(open_cloudflare(account.id), edge.account_id)


def test_every_fetch_of_tenants_code_is_led_through_the_outbound_worker(account: Account) -> None:
    cloudflare = open_cloudflare(account.id)
    assert cloudflare.get_account_script_tags(names.outbound_name()) is not None
    dispatcher = accounts._dispatcher(account.cloudflare_account_id)
    binding = next(b for b in dispatcher.bindings if b["type"] == "dispatch_namespace")
    assert binding["outbound"] == {
        "worker": {"service": names.outbound_name()},
        "params": [{"name": "policy"}],
    }


def test_the_token_is_sealed_in_the_database_and_absent_from_every_message(
    account: Account, edge: PlatformEdge
) -> None:
    with as_system():
        account.refresh_from_db()
    assert edge.token not in account.token_sealed
    cloudflare = open_cloudflare(account.id)
    assert edge.token not in repr(cloudflare) + repr(vars(cloudflare))


def test_a_wrong_token_ends_the_command_with_one_sentence(account: Account, settings: Settings) -> None:
    right = settings.CLOUDFLARE_API_TOKEN
    settings.CLOUDFLARE_API_TOKEN = "wrong-token-" + "x" * 20
    with pytest.raises(CommandError) as refused:
        call_command("ensure_account")
    assert isinstance(refused.value.__cause__, Unauthorised)
    assert "wrong-token" not in str(refused.value)
    settings.CLOUDFLARE_API_TOKEN = right
    call_command("ensure_account", stdout=StringIO())


def test_another_dispatch_url_gives_every_route_a_new_version(world: World, settings: Settings) -> None:
    before = world.environment.route_version
    url = settings.DISPATCH_URL
    settings.DISPATCH_URL = "http://127.0.0.1:9"
    call_command("ensure_account", stdout=StringIO())
    with as_system():
        assert Environment.objects.get(id=world.environment.id).route_version == before + 1
    settings.DISPATCH_URL = url
    call_command("ensure_account", stdout=StringIO())


def test_a_full_account_takes_no_more_and_opens_again(world: World) -> None:
    def state() -> str:
        accounts.update_openness()
        with as_system():
            return Account.objects.get(id=world.account.id).state

    with as_system():
        Account.objects.filter(id=world.account.id).update(capacity=1)
    assert state() == Account.State.FULL
    with as_system():
        Account.objects.filter(id=world.account.id).update(capacity=100_000)
    assert state() == Account.State.OPEN


# ── Ledger and account ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def strangers(world: World) -> Iterator[list[str]]:
    """Things in the account that are not ours, or not of this installation."""
    there = ["somebody-elses", f"smcp-other-{new_id()}", f"{names.prefix()}not-an-id"]
    with world.cloudflare() as cloudflare:
        found = [cloudflare.ensure_kv_namespace(name) for name in there]
        yield there
        for thing in found:
            cloudflare.delete_kv_namespace(thing.id)


def reconcile(world: World, grace: timedelta = NO_GRACE) -> reconciler.Report:
    with world.cloudflare() as cloudflare:
        return reconciler.reconcile(world.account.id, cloudflare, now=timezone.now(), grace=grace)


def test_a_ledger_that_agrees_gives_a_clean_report_and_strangers_are_left_alone(
    world: World, strangers: list[str]
) -> None:
    world.deploy((world.version(), 100))
    before = world.in_account()
    report = reconcile(world)
    assert report.is_clean
    assert report.swept == []
    assert world.in_account() == before


def test_what_vanished_is_drift_and_what_nobody_knows_is_an_orphan(world: World) -> None:
    world.deploy((world.version(), 100))
    with as_system():
        space = Resource.objects.get(tenant_id=world.tenant_id, kind=ResourceKind.KV_NAMESPACE)
    orphan = names.resource_name(new_id())
    with world.cloudflare() as cloudflare:
        cloudflare.delete_kv_namespace(space.cloudflare_id)
        found = cloudflare.ensure_d1_database(orphan)
        report = reconcile(world)
        assert report.drift == [space.name]
        assert report.orphans == [orphan]
        assert orphan in world.in_account(), "data is never removed without a person"
        cloudflare.delete_d1_database(found.id)
    with as_system():
        Resource.objects.filter(id=space.id).update(state=Resource.State.DELETED, deleted_at=timezone.now())


def test_leftovers_of_errands_are_swept_but_not_while_they_may_be_running(world: World) -> None:
    world.deploy((world.version(), 100))
    [release] = world.serving()
    with as_system():
        bucket = Resource.objects.get(tenant_id=world.tenant_id, kind=ResourceKind.R2_BUCKET)
        Resource.objects.filter(id=bucket.id).update(state=Resource.State.DELETING)
    needed, leftover, check = (
        names.janitor_name(bucket.id),
        names.janitor_name(new_id()),
        names.check_name(new_id()),
    )
    with world.cloudflare() as cloudflare, as_system():
        upload = compose_upload(release, migrations=None)
        for name in (needed, leftover, check):
            cloudflare.put_script(name, upload)
    assert reconcile(world, grace=timedelta(minutes=10)).swept == []
    assert sorted(reconcile(world).swept) == sorted([leftover, check])
    assert needed in world.in_account()
    with as_system():
        Resource.objects.filter(id=bucket.id).update(state=Resource.State.LIVE)
    with world.cloudflare() as cloudflare:
        cloudflare.delete_script(needed)


def test_a_script_that_came_too_late_is_swept(world: World) -> None:
    """A request of a dead worker that Cloudflare carried out after its Operation was undone."""
    world.deploy((world.version(), 100))
    [release] = world.serving()
    late = names.resource_name(new_id())
    with as_system():
        upload = compose_upload(release, migrations=None)
    with world.cloudflare() as cloudflare:
        cloudflare.put_script(late, upload)
    assert reconcile(world).swept == [late]
    assert world.in_account() == world.in_ledger()
