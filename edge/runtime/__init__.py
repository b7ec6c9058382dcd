"""What runs the Workers: one workerd per script, started on demand, supervised, reached through the router."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.container import Edge
    from edge.runtime.supervisor import Runtime


def create(edge: Edge) -> Runtime:
    """The runtime of an edge; `start` it once, before anything listens."""
    # Here, because what the supervisor is made of imports the plainer modules of this package.
    from edge.runtime.supervisor import Runtime

    return Runtime(edge)
