"""The queues of Celery. Work that must never wait for other work has a queue, and processes, of its own.

Deploys and whatever else the platform does of its own accord are `operations`; somebody waits for `checks` of uploads; `probes`
wait for servers that may never answer. A worker started without `--queues` takes from all of them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Queues:
    """The names, in one installation's broker."""

    operations: str
    checks: str
    probes: str


def queues_of(installation: str) -> Queues:
    return Queues(
        operations=f"smcp-{installation}",
        checks=f"smcp-{installation}-checks",
        probes=f"smcp-{installation}-probes",
    )
