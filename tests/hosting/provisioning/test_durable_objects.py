"""Code with Durable Objects: one script for good, replaced in place, with migrations that only go forward."""

from __future__ import annotations

from typing import Any

import pytest

from hosting.models import Operation, Resource, Version
from hosting.provisioning.plan import MigrationBetween, NoPercentages
from smcp.common.tenancy import as_system
from tests.hosting.provisioning.test_repetition import run_each_step_twice
from tests.hosting.provisioning.world import COUNTER, World

DURABLE = b"""
import { DurableObject } from "cloudflare:workers";
export class Counter extends DurableObject {
  async next() {
    const n = ((await this.ctx.storage.get("n")) ?? 0) + 1;
    await this.ctx.storage.put("n", n);
    return n;
  }
}
export default {
  async fetch(request, env) {
    if (request.method !== "POST") return new Response(null, { status: 405 });
    const { id, method, params } = await request.json();
    const stub = env.COUNTER.get(env.COUNTER.idFromName("one"));
    const results = {
      initialize: () => ({ protocolVersion: params.protocolVersion, capabilities: {}, serverInfo: { name: "d", version: "1" } }),
      count: async () => ({ n: await stub.next(), version: VERSION }),
    };
    if (!results[method]) return Response.json({ jsonrpc: "2.0", id, error: { code: -32601, message: "no" } }, { status: 404 });
    return Response.json({ jsonrpc: "2.0", id, result: await results[method]() });
  },
};
"""
FIRST_MIGRATION = {"new_tag": "v1", "steps": [{"new_sqlite_classes": ["Counter"]}]}


def durable(world: World, number: int, **more: Any) -> Version:
    code = DURABLE.replace(b"VERSION", str(number).encode())
    return world.version(code, bindings=COUNTER, **{"migrations": FIRST_MIGRATION, **more})


def test_durable_objects_keep_their_script_and_their_data_through_deploys_and_rollbacks(world: World) -> None:
    one, two = durable(world, 1), durable(world, 2, migrations=None)
    world.deploy((one, 100))
    [first] = world.serving()
    assert world.ask(first.script_name, "count") == {"n": 1, "version": 1}
    world.deploy((two, 100))
    [second] = world.serving()
    assert second.script_name == first.script_name
    assert world.ask(second.script_name, "count") == {"n": 2, "version": 2}
    world.deploy((one, 100))
    [third] = world.serving()
    assert world.ask(third.script_name, "count") == {"n": 3, "version": 1}
    assert world.in_ledger() == world.in_account()
    with pytest.raises(NoPercentages):
        world.begin_deploy((one, 50), (two, 50))


SECOND_MIGRATION = {
    "old_tag": "v1",
    "new_tag": "v2",
    "steps": [{"new_sqlite_classes": ["Ledger"]}],
}


def with_ledger(world: World, number: int, **more: Any) -> Version:
    code = DURABLE.replace(b"VERSION", str(number).encode())
    code += b"export class Ledger extends DurableObject {}"
    bindings = [*COUNTER, {"type": "durable_object_namespace", "name": "LEDGER", "class_name": "Ledger"}]
    return world.version(code, bindings=bindings, **{"migrations": SECOND_MIGRATION, **more})


def stable_script(world: World) -> Resource:
    with as_system():
        return Resource.objects.get(tenant_id=world.tenant_id, kind="script", state=Resource.State.LIVE)


def test_migrations_run_once_and_rolling_back_over_one_is_refused(world: World) -> None:
    one, two, three = durable(world, 1), with_ledger(world, 2), with_ledger(world, 3, migrations=None)
    with pytest.raises(MigrationBetween):
        world.begin_deploy((two, 100))
    world.deploy((one, 100))
    operation = run_each_step_twice(world, world.begin_deploy((two, 100)))
    assert operation.state == Operation.State.SUCCEEDED, operation.error
    script = stable_script(world)
    assert script.progress["migration_tag"] == "v2"
    with pytest.raises(MigrationBetween, match="only go forward"):
        world.begin_deploy((one, 100))
    world.deploy((three, 100))
    world.deploy((two, 100))
    assert world.ask(script.name, "count") == {"n": 1, "version": 2}


def test_replacing_serving_code_has_no_way_back(world: World) -> None:
    world.deploy((durable(world, 1), 100))
    script = stable_script(world)
    world.ask(script.name, "count")
    silent = DURABLE.replace(b"initialize:", b"something:").replace(b"VERSION", b"2")
    operation = world.begin_deploy((world.version(silent, bindings=COUNTER), 100))
    assert operation.context["pivot"] == "upload"
    operation = world.run(operation)
    assert operation.state == Operation.State.FAILED
    assert operation.error is not None
    assert operation.error["step"] == "probe"
    assert world.steps(operation) == {
        "choose_names": "done",
        "upload": "done",
        "probe": "failed",
        "publish": "done",
        "drain": "done",
        "remove_releases": "done",
    }
    # The ledger says what is true: the new code serves. The data is untouched, and the code before can be had again.
    assert [release.id for release in world.serving()] == [operation.context["releases"][0]["id"]]
    world.deploy((durable(world, 3), 100))
    assert world.ask(script.name, "count") == {"n": 2, "version": 3}


def test_code_that_is_refused_in_place_changes_nothing(world: World) -> None:
    world.deploy((durable(world, 1), 100))
    before = world.serving()
    operation = world.run(world.begin_deploy((world.version(b"export default {", bindings=COUNTER), 100)))
    assert operation.state == Operation.State.FAILED
    assert world.serving() == before
    assert world.ask(stable_script(world).name, "count") == {"n": 1, "version": 1}
    assert world.in_account() == world.in_ledger()
    assert world.open_rows() == []


def test_a_first_deployment_that_fails_leaves_nothing(world: World) -> None:
    before = world.in_account()
    silent = DURABLE.replace(b"initialize:", b"something:").replace(b"VERSION", b"1")
    version = world.version(silent, bindings=COUNTER, migrations=FIRST_MIGRATION)
    operation = world.run(world.begin_deploy((version, 100)))
    assert operation.state == Operation.State.FAILED
    assert world.in_account() == before
    assert world.open_rows() == []
