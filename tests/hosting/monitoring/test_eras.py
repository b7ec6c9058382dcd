"""What a server elsewhere speaks is found out by asking it, where it may be asked at all."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings
from django.utils import timezone

from hosting import routing
from hosting.dataplane.contract import Keys, Route, decode_fact
from hosting.dataplane.remotes import parse_allowed
from hosting.models import Remote
from hosting.monitoring.claims import claim_due, watch_new
from hosting.monitoring.eras import check_due
from hosting.operations.environments import place_environment
from hosting.operations.remotes import RemoteWish, set_remote
from hosting.operations.secrets import put_secret
from smcp.common.tenancy import as_system, as_tenant
from tests import factories
from tests.certificates import make_certificate
from tests.dataplane.harness import FarawayProcess

CANARY = "canary-e4a5"


@pytest.fixture(scope="module")
def faraway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarawayProcess]:
    directory: Path = tmp_path_factory.mktemp("faraway")
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    make_certificate(certificate, key)
    certificate.write_text(certificate.read_text() + key.read_text())
    process = FarawayProcess(directory, certificate)
    process.start()
    yield process
    process.stop()


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator lets servers be on this machine, at 127.0.0.1 only."""
    monkeypatch.setattr(settings, "REMOTE_ALLOW", parse_allowed("127.0.0.1"))


@pytest.fixture(autouse=True)
def nothing_else_due(committed_db: None, redis_url: str) -> None:
    with as_system():
        Remote.objects.all().delete()


def make_remote(url: str, **more: Any) -> Remote:
    with as_system():
        tenant = factories.make_tenant()
        server = factories.make_server(tenant, kind="remote")
    with as_tenant(tenant.id):
        environment = place_environment(server=server, actor="system", slug="production")
    of = {"tenant_id": tenant.id, "actor": "system", "environment_id": environment.id}
    if "headers" in more:
        put_secret(**of, name="TOKEN", value=CANARY)
    return set_remote(**of, wish=RemoteWish(url=url, **more))


def looked_at(remote: Remote) -> Remote:
    assert check_due(now=timezone.now()) == 1
    with as_system():
        return Remote.objects.get(id=remote.id)


def route_of(remote: Remote) -> Route:
    keys = Keys(installation=settings.INSTALLATION)
    raw = routing.connection().hget(keys.facts, f"route/{remote.environment_id}")
    assert isinstance(raw, bytes)
    route = decode_fact(raw)
    assert isinstance(route, Route)
    return route


@pytest.mark.usefixtures("at_home")
def test_a_server_of_both_eras_with_sessions(faraway: FarawayProcess) -> None:
    headers = [{"name": "Authorization", "prefix": "Bearer ", "secret": "TOKEN"}]
    remote = make_remote(f"{faraway.url}/mcp", headers=headers)
    assert route_of(remote).targets[0].eras == ("legacy", "modern")
    faraway.forget()
    seen = looked_at(remote)
    assert (seen.eras, seen.issues_sessions, seen.check_failure) == (["legacy", "modern"], True, "")
    assert seen.checked_at is not None
    assert [entry["method"] for entry in faraway.seen] == ["POST", "DELETE", "POST"]
    assert {entry["headers"]["authorization"] for entry in faraway.seen} == {f"Bearer {CANARY}"}
    assert check_due(now=timezone.now()) == 0
    assert seen.check_due_at > timezone.now() + timedelta(minutes=10)


@pytest.mark.usefixtures("at_home")
def test_news_of_what_it_speaks_are_published_at_once(faraway: FarawayProcess) -> None:
    remote = make_remote(f"{faraway.url}/scripted")
    with as_system():
        Remote.objects.filter(id=remote.id).update(eras=["modern"], issues_sessions=False)
    before = route_of(remote).version
    looked_at(remote)
    route = route_of(remote)
    assert route.version > before
    assert (route.targets[0].eras, route.targets[0].issues_sessions) == (("legacy", "modern"), True)


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(("path", "why"), [("nothing", "it answered 404"), ("moved", "it answered 307")])
def test_one_that_is_no_mcp_server_keeps_what_was_known_and_is_asked_again_soon(
    faraway: FarawayProcess, path: str, why: str
) -> None:
    remote = make_remote(f"{faraway.url}/{path}")
    with as_system():
        Remote.objects.filter(id=remote.id).update(eras=["modern"])
    seen = looked_at(remote)
    assert why in seen.check_failure
    assert seen.eras == ["modern"]
    assert seen.check_due_at < timezone.now() + timedelta(minutes=3)
    assert faraway.trapped == []


def test_a_private_address_is_not_asked_although_it_was_configured(
    faraway: FarawayProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(settings, "REMOTE_ALLOW", parse_allowed("127.0.0.0/8"))
        remote = make_remote(f"http://127.0.0.2:{faraway.port}/mcp")
    seen = looked_at(remote)
    assert "address" in seen.check_failure
    assert faraway.trapped == []


@pytest.mark.usefixtures("at_home")
def test_a_server_over_http_and_sse_is_not_asked(faraway: FarawayProcess) -> None:
    faraway.forget()
    make_remote(f"{faraway.url}/old", transport="sse")
    assert check_due(now=timezone.now()) == 0
    assert faraway.seen == []


@pytest.mark.usefixtures("at_home")
def test_the_monitors_watch_it_like_any_other(faraway: FarawayProcess) -> None:
    remote = make_remote(f"{faraway.url}/old", transport="sse")
    now = timezone.now()
    watch_new(now=now)
    due = claim_due(now=now, limit=1000, is_doubtful=False)
    assert {a.environment: a.era for a in due}[remote.environment_id] == "legacy"


def test_nothing_of_the_headers_is_in_the_queue(redis_url: str, faraway: FarawayProcess) -> None:
    headers = [{"name": "Authorization", "prefix": "", "secret": "TOKEN"}]
    make_remote("https://mcp.example.com/mcp", headers=headers)
    with redis.Redis.from_url(redis_url) as client:
        kept = [client.dump(key) or b"" for key in client.scan_iter()]
    assert any(b"check_remotes" in each for each in kept)
    assert not any(CANARY.encode() in each for each in kept)
