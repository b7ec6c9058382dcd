"""What runs the Workers: one workerd per script, started on demand, supervised, reached through the router."""

from __future__ import annotations

from edge.container import Edge
from edge.runtime.supervisor import Runtime


def create(edge: Edge) -> Runtime:
    """The runtime of an edge; `start` it once, before anything listens."""
    return Runtime(edge)
