"""What customers store: KV, R2 and D1, each in files of its own, account first in every path and query."""

from __future__ import annotations

from pathlib import Path

from edge.lanes import Lanes
from edge.state import State
from edge.storage.d1 import D1Store
from edge.storage.kv import KvStore
from edge.storage.r2 import R2Store


class Storage:
    """The three stores. `start` once, before anything is asked of them."""

    def __init__(
        self, root: Path, state: State, lanes: Lanes, *, d1_timeout_s: float, kv_write_interval_s: float
    ) -> None:
        self.kv = KvStore(root / "kv", state, lanes, write_interval_s=kv_write_interval_s)
        self.r2 = R2Store(root / "r2", state, lanes)
        self.d1 = D1Store(root / "d1", state, lanes, timeout_s=d1_timeout_s)

    async def start(self) -> None:
        await self.kv.start()
        await self.r2.start()
        await self.d1.start()
