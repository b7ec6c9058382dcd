"""What Django looks for: the tables every room needs."""

from smcp.common.audit import AuditEvent
from smcp.common.idempotency import IdempotentRequest

__all__ = ["AuditEvent", "IdempotentRequest"]
