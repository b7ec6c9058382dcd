"""What every handler is given: one `Edge` with all that lives as long as the process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web

from edge.config import Config
from edge.faults import Faults
from edge.lanes import Lanes
from edge.ratelimit import RateLimiter
from edge.state import State
from edge.storage import Storage


class Runtime(Protocol):
    """What runs the Workers; `edge.runtime.create(edge)` makes it, before anything listens."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    @property
    def is_running(self) -> bool:
        """Whether it was started, and still looks after its Workers."""

    def readiness(self) -> Mapping[str, Any]:
        """What /readyz tells of it."""

    def workers_app(self) -> web.Application:
        """What answers on the workers port."""


@dataclass(kw_only=True)
class Edge:
    config: Config
    state: State
    lanes: Lanes
    storage: Storage
    faults: Faults
    limiter: RateLimiter
    runtime: Runtime = field(init=False)
    is_stopping: bool = False
