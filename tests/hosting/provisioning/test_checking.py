"""Uploads are checked by really loading them, by a worker, while the door waits."""

from __future__ import annotations

import time

import pytest

from hosting import wake
from hosting.provisioning import checking
from smcp.common.blobs import put_blob
from tests.hosting.provisioning.workers import StartWorker, Worker
from tests.hosting.provisioning.world import CODE, COUNTER, JAVASCRIPT, World


@pytest.fixture
def worker(start_worker: StartWorker, world: World) -> Worker:
    started = start_worker()
    started.wait_ready()
    return started


def ask(world: World, code: bytes, **more: object) -> wake.Verdict:
    module = wake.ModuleRef(name="m.js", content_type=JAVASCRIPT, digest=put_blob(world.tenant_id, code))
    return wake.check_upload(
        **{  # type: ignore[arg-type]
            "tenant_id": world.tenant_id,
            "modules": [module],
            "main_module": "m.js",
            "compatibility_date": "2026-10-01",
            **more,
        }
    )


@pytest.mark.acceptance("S4.34")
def test_code_is_loaded_and_judged_and_nothing_stays(world: World, worker: Worker) -> None:
    before = world.in_account()
    good = ask(world, CODE, bindings=[{"type": "kv_namespace", "name": "NOTES"}])
    assert good.is_loadable
    assert "fetch" in good.handlers
    broken = ask(world, b"export default {")
    assert not broken.is_loadable
    assert broken.code == 10021
    assert "SyntaxError" in broken.message
    throwing = ask(world, b"throw new Error('at the top'); export default {}")
    assert not throwing.is_loadable
    assert "at the top" in throwing.message
    handlerless = ask(world, b"export default {};")
    assert handlerless.code == 10068
    classless = ask(world, CODE, bindings=COUNTER)
    assert not classless.is_loadable
    assert "Counter" in classless.message
    assert world.in_account() == before


def test_without_a_worker_the_door_says_when_to_come_back(world: World) -> None:
    began = time.monotonic()
    with pytest.raises(wake.CheckUnavailable) as refused:
        ask(world, CODE, within_s=1)
    assert time.monotonic() - began < 5
    assert refused.value.retry_after_s


def test_cloudflare_away_is_no_verdict_on_the_code(world: World) -> None:
    digest = put_blob(world.tenant_id, CODE)
    request = {
        "tenant_id": world.tenant_id,
        "modules": [{"name": "m.js", "content_type": JAVASCRIPT, "digest": digest}],
        "main_module": "m.js",
        "compatibility_date": "2026-10-01",
        "compatibility_flags": [],
        "bindings": [],
        "migrations": None,
    }
    world.fault("scripts.put", "drop")
    before = world.in_account()
    verdict = checking.judge("01jd0000000000000000000000", request)
    assert "unavailable" in verdict
    assert world.in_account() == before
