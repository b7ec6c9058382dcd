"""What customers store: KV, R2 and D1, each in files of its own, account first in every path and query."""

from __future__ import annotations

from pathlib import Path

from edge.lanes import Lanes
from edge.state import State


class Storage:
    """The three stores. `start` once, before anything is asked of them."""

    def __init__(self, root: Path, state: State, lanes: Lanes, *, d1_timeout_s: float) -> None:
        self.root = root
        self.state = state
        self.lanes = lanes
        self.d1_timeout_s = d1_timeout_s

    async def start(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
