"""Emptying an R2 bucket, so that it can be deleted: a janitor Worker does it inside Cloudflare, 1,000 objects a call, where the
API would take one request an object.

The bucket itself is the progress; the row only remembers how far we got, for people, and when the janitor was uploaded. A crash
anywhere is met by uploading the janitor again (its name follows from the bucket's row) and going on. When the bucket is empty
the janitor is removed.
"""

from __future__ import annotations

import time
from typing import Any, Final

from hosting import names
from hosting.cloudflare.port import Module, ScriptUpload
from hosting.models import Resource
from hosting.provisioning.accounts import COMPATIBILITY_DATE, WORKERS
from hosting.provisioning.dispatching import DispatchError, ScriptAbsent, calling, dispatcher_of
from hosting.provisioning.steps import NotYet, Run, StepFailed

TURN_S: Final = 10.0  # then others get their turn
SPREAD_S: Final = 30.0  # how long a fresh script may stay unknown to the dispatcher


def empty_bucket(run: Run, bucket: Resource) -> None:
    """Returns when the bucket is empty and its janitor gone. Raises NotYet when there is more to do than fits in a turn."""
    cloudflare = run.cloudflare(bucket.account_id)
    script = names.janitor_name(bucket.id)
    progress: dict[str, Any] = dict(bucket.progress)
    if "janitor_at" not in progress:
        cloudflare.put_script(script, _janitor(bucket))
        _save(run, bucket, progress, janitor_at=time.time())
    with run.transaction():
        dispatcher = dispatcher_of(bucket.account_id, tenant_id=run.tenant_id)
    ends_at = time.monotonic() + TURN_S
    is_done = False
    while not is_done:
        run.assure()
        try:
            with calling(dispatcher, script, timeout_s=25) as answer:
                answer.read()
                report = answer.json() if answer.status_code == 200 else {}
        except ScriptAbsent as exc:
            if time.time() - progress["janitor_at"] > SPREAD_S:
                progress.pop("janitor_at")
                _save(run, bucket, progress)
            raise NotYet(0.5, "waiting for the janitor Worker to start") from exc
        except (DispatchError, ValueError) as exc:
            raise StepFailed("janitor-failed", str(exc), is_permanent=False) from exc
        if not isinstance(report.get("deleted"), int):
            raise StepFailed("janitor-failed", "The janitor Worker failed.", is_permanent=False)
        is_done = bool(report.get("done"))
        removed = int(progress.get("objects_removed", 0)) + report["deleted"]
        _save(run, bucket, progress, objects_removed=removed)
        run.say(f"{removed:,} objects removed")
        if not is_done and time.monotonic() > ends_at:
            raise NotYet(0, f"{removed:,} objects removed so far")
    cloudflare.delete_script(script)
    progress.pop("janitor_at")
    _save(run, bucket, progress)


def _save(run: Run, bucket: Resource, progress: dict[str, Any], **changed: Any) -> None:
    progress.update(changed)
    with run.transaction():
        Resource.objects.filter(tenant_id=run.tenant_id, id=bucket.id).update(progress=progress)


def _janitor(bucket: Resource) -> ScriptUpload:
    code = (WORKERS / "janitor" / "worker.js").read_bytes()
    return ScriptUpload(
        main_module="worker.js",
        modules=[Module(name="worker.js", content_type="application/javascript+module", content=code)],
        compatibility_date=COMPATIBILITY_DATE,
        bindings=[{"type": "r2_bucket", "name": "BUCKET", "bucket_name": bucket.name}],
    )
