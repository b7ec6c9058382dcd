"""The watchdog: what it does not wait for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

from edge.runtime.places import ScriptPlace
from edge.runtime.process import Launcher
from edge.runtime.watchdog import CONSOLE_LIMIT, ROUND, Bounds, Watchdog
from edge.runtime.worker import Worker
from edge.scripts.model import Script, Version, new_tag, new_version_id, now_text
from tests.edge.scripts import until

WAIT_S = 10.0
BOUNDS = Bounds(idle_s=60, recycle_mb=100, kill_mb=200, max_running=10)


def resting_worker(root: Path) -> Worker:
    """The Worker of a script nobody calls: no process runs."""
    version = Version(
        id=new_version_id(),
        number=1,
        created_at=now_text(),
        main_module="index.js",
        modules=(),
        compatibility_date="2026-11-01",
    )
    now = now_text()
    script = Script(
        account="a",
        namespace="",
        name="s",
        slot=1,
        tag=new_tag(),
        created_at=now,
        modified_at=now,
        version=version,
    )
    return Worker(cast(Launcher, None), script, ScriptPlace(root, 1))


async def test_it_goes_on_looking_while_every_shared_thread_is_busy(tmp_path: Path) -> None:
    worker = resting_worker(tmp_path)
    worker.place.path.mkdir()
    worker.place.console.write_bytes(b"x" * (CONSOLE_LIMIT + 1))
    looks, all_looked, may_end = 0, asyncio.Event(), threading.Event()

    def workers() -> Iterable[Worker]:
        nonlocal looks
        looks += 1
        if looks > 4 * ROUND:
            all_looked.set()
        return [worker]

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as only:
        loop.set_default_executor(only)
        busy = loop.run_in_executor(None, may_end.wait, WAIT_S * 2)
        watching = asyncio.create_task(Watchdog(BOUNDS, workers, loop.time).run())
        async with asyncio.timeout(WAIT_S * 1.5):
            await all_looked.wait()
        assert not busy.done()
        may_end.set()
        assert await busy
    with ThreadPoolExecutor(1) as waiter:
        await loop.run_in_executor(waiter, until, lambda: worker.place.console.stat().st_size == 0)
    watching.cancel()
    await asyncio.wait([watching])
