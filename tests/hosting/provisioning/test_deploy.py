"""DEPLOY against the real edge: what exists afterwards, who serves, and why it was refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
import redis
from django.conf import settings
from django.utils import timezone

from hosting import names
from hosting.dataplane.contract import Keys, Route, decode_fact
from hosting.models import Environment, Operation, Release, Resource
from hosting.operations.deployments import OperationUnderWay, deploy_version, plan_deploy
from hosting.provisioning.plan import BindingChanged, SecretMissing, TargetsInvalid
from smcp.common.tenancy import as_system
from tests.hosting.provisioning.world import ALL_KINDS, World

Make = Callable[[], World]


def route_of(world: World) -> Route | None:
    keys = Keys(installation=settings.INSTALLATION)
    with redis.Redis.from_url(settings.DATAPLANE_REDIS_URL) as client:
        raw = cast("bytes | None", client.hget(keys.facts, f"route/{world.environment.id}"))
    return cast(Route, decode_fact(raw)) if raw else None


@pytest.mark.acceptance("S4.1", "S4.9", "S4.10", "S4.11", "S4.32")
def test_a_deployed_server_has_its_own_worker_and_its_own_storage(world: World) -> None:
    world.deploy((world.version(), 100))
    [release] = world.serving()
    with as_system():
        kinds = sorted(
            Resource.objects.filter(tenant_id=world.tenant_id, state=Resource.State.LIVE).values_list(
                "kind", flat=True
            )
        )
    assert kinds == ["d1_database", "kv_namespace", "r2_bucket", "script"]
    assert world.in_ledger() == world.in_account()
    assert world.ask(release.script_name, "see")["bindings"] == ["FILES", "NOTES", "ROWS"]
    assert all(name.startswith(names.prefix()) for name in world.in_account())


def test_the_route_appears_only_after_the_probe_is_green(world: World) -> None:
    operation = world.begin_deploy((world.version(), 100))
    while world.steps(operation)["publish"] == "pending":
        assert route_of(world) is None
        world.one_step(operation)
    route = route_of(world)
    assert route is not None
    assert world.steps(operation)["probe"] == "done"
    assert [target.script for target in route.targets] == [world.serving()[0].script_name]


def test_the_probe_learns_what_the_server_speaks(world: World) -> None:
    world.variables(LEGACY_ONLY="1", SESSIONS="1")
    world.deploy((world.version(), 100))
    [release] = world.serving()
    assert release.eras == ["legacy"]
    assert release.issues_sessions
    world.variables()
    world.deploy((world.version(), 100))
    [release] = world.serving()
    assert release.eras == ["legacy", "modern"]
    assert not release.issues_sessions


@pytest.mark.parametrize(
    ("knob", "code", "words"),
    [
        ("NO_MCP", "not-an-mcp-server", "does not answer as an MCP server"),
        ("TRICKLES", "code-failed", "The code did not come to the end of its answer within 10 s."),
        ("THROWS", "code-failed", "The code threw an exception before it answered: “as told <b>once</b>”."),
    ],
)
def test_what_is_no_mcp_server_is_refused_with_the_reason_and_leaves_nothing(
    world: World, knob: str, code: str, words: str
) -> None:
    before = world.in_account()
    world.variables(**{knob: "1"})
    operation = world.run(world.begin_deploy((world.version(), 100)))
    assert operation.state == Operation.State.FAILED
    assert operation.error is not None
    assert operation.error["step"] == "probe"
    assert operation.error["code"] == code
    assert words in operation.error["message"]
    assert world.message(operation, "probe") == operation.error["message"]
    assert world.in_account() == before
    assert world.open_rows() == []
    assert route_of(world) is None
    assert {release.state for release in world.releases()} == {Release.State.REMOVED}


def test_code_the_runtime_refuses_fails_with_its_own_words(world: World) -> None:
    before = world.in_account()
    operation = world.run(world.begin_deploy((world.version(b"export default {"), 100)))
    assert operation.state == Operation.State.FAILED
    assert operation.error is not None
    assert operation.error["code"] == "cloudflare-rejected"
    assert "SyntaxError" in operation.error["message"]
    assert world.in_account() == before


@pytest.mark.acceptance("S0.28")
def test_secrets_and_variables_reach_the_code_and_a_changed_one_is_a_new_release(world: World) -> None:
    version = world.version(bindings=[{"type": "secret_text", "name": "SECRET"}])
    with pytest.raises(SecretMissing):
        world.begin_deploy((version, 100))
    world.secret("SECRET", "first")
    world.variables(MODE="loud")
    world.deploy((version, 100))
    [first] = world.serving()
    assert world.ask(first.script_name, "see") == {
        "secret": "first",
        "mode": "loud",
        "bindings": ["MODE", "SECRET"],
    }
    world.secret("SECRET", "second")
    world.deploy((version, 100))
    [second] = world.serving()
    assert second.id != first.id
    assert world.ask(second.script_name, "see")["secret"] == "second"
    assert "second" not in str(second.bindings)


@pytest.mark.acceptance("S0.32")
def test_rolling_back_is_a_change_of_route_alone(world: World) -> None:
    old, new = world.version(), world.version()
    world.deploy((old, 100))
    [first] = world.serving()
    world.deploy((new, 100))
    assert world.serving() != [first]
    world.fault("scripts.put", "status", status=400, code=10021)
    world.fault("kv.create", "status", status=400)
    world.deploy((old, 100))
    assert world.serving() == [first]
    route = route_of(world)
    assert route is not None
    assert [target.release for target in route.targets] == [first.id]


def test_a_canary_shares_the_traffic_as_asked(world: World) -> None:
    old, new = world.version(), world.version()
    world.deploy((old, 100))
    world.deploy((old, 90), (new, 10))
    route = route_of(world)
    assert route is not None
    assert sorted(target.weight for target in route.targets) == [1000, 9000]
    assert len(world.serving()) == 2


@pytest.mark.parametrize("shares", [(50, 40), (100, 1), (0, 100), (-1, 101)])
def test_shares_that_do_not_add_up_are_refused(world: World, shares: tuple[int, int]) -> None:
    one, other = world.version(), world.version()
    with pytest.raises(TargetsInvalid):
        world.begin_deploy((one, shares[0]), (other, shares[1]))


def test_a_binding_cannot_turn_into_something_else(world: World) -> None:
    world.deploy((world.version(bindings=[{"type": "kv_namespace", "name": "DATA"}]), 100))
    with pytest.raises(BindingChanged):
        world.begin_deploy((world.version(bindings=[{"type": "r2_bucket", "name": "DATA"}]), 100))


def test_data_outlives_a_version_that_no_longer_declares_it(world: World) -> None:
    world.deploy((world.version(), 100))
    before = world.in_ledger(of_all=False)
    world.deploy((world.version(bindings=[]), 100))
    world.deploy((world.version(), 100))
    made = world.in_ledger(of_all=False) - before
    with as_system():
        assert set(Resource.objects.filter(name__in=made).values_list("kind", flat=True)) == {"script"}


def test_only_the_kept_number_of_older_releases_stays(world: World) -> None:
    with as_system():
        Environment.objects.filter(id=world.environment.id).update(releases_kept=1)
    for _ in range(4):
        world.deploy((world.version(bindings=[]), 100))
    standing = [release for release in world.releases() if release.state != Release.State.REMOVED]
    assert [release.number for release in standing] == [3, 4]
    assert {release.script_name for release in standing} == world.in_ledger(of_all=False)
    assert world.in_ledger() == world.in_account()


def test_one_operation_at_a_time_changes_an_environment(world: World) -> None:
    version = world.version(bindings=[])
    operation = world.begin_deploy((version, 100))
    with pytest.raises(OperationUnderWay):
        world.begin_deploy((version, 100))
    world.run(operation)
    world.deploy((version, 100))


def test_a_dry_run_says_what_would_be_made_and_makes_nothing(world: World) -> None:
    version = world.version()
    plan = plan_deploy(
        tenant_id=world.tenant_id, environment_id=world.environment.id, targets=[(version.id, 100)]
    )
    assert [new.binding for new in plan.new_resources] == [b["name"] for b in ALL_KINDS]
    assert plan.pivot == "publish"
    assert world.in_ledger(of_all=False) == set()
    world.deploy((version, 100))
    again = plan_deploy(
        tenant_id=world.tenant_id, environment_id=world.environment.id, targets=[(version.id, 100)]
    )
    assert again.new_resources == []
    assert again.releases[0].reuses == world.serving()[0].id
    assert again.is_rollback


def test_another_tenants_environment_or_version_is_not_there(make: Make) -> None:
    mine, other = make(), make()
    version = other.version()
    for environment, wanted in ((other.environment, version), (mine.environment, version)):
        with pytest.raises(Exception, match="There is no such"):
            deploy_version(
                tenant_id=mine.tenant_id,
                actor="system",
                environment_id=environment.id,
                targets=[(wanted.id, 100)],
                now=timezone.now(),
            )
