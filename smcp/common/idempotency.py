"""`Idempotency-Key`: a repeated request gets the first one's answer instead of a second effect.

The row is inserted before the work, in the work's transaction: two requests with one key cannot both do it, and a crash
half-way rolls the claim back with the work. Work that waits for something outside its transaction (an upload in the sandbox)
commits its claim first; if we crash then, the claim is free again after CLAIM_LIFE_S.

Only answers of work that was done are kept; after an error the same key may be used for the corrected request. Answers are
sealed, because one of them may show a new key. Source: draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection, models
from django.utils import timezone

from smcp.common.errors import Conflict, Invalid
from smcp.common.ids import UlidField
from smcp.common.sealing import open_sealed, seal

CLAIM_LIFE_S: Final = 120
KEY_MAX: Final = 255


class KeyInvalid(Invalid):
    code = "idempotency-key-invalid"
    title = "The Idempotency-Key cannot be used"


class KeyReused(Invalid):
    code = "idempotency-key-reused"
    title = "The Idempotency-Key was used for another request"


class KeyInUse(Conflict):
    code = "idempotency-key-in-use"
    title = "A request with this Idempotency-Key is under way"


class IdempotentRequest(models.Model):
    """One claimed key and, once the work is done, its answer. Without tenant: a request of the platform's operators."""

    id = UlidField(primary_key=True)
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.CASCADE, related_name="+", null=True)
    principal = models.CharField(max_length=120)
    key = models.CharField(max_length=KEY_MAX)
    fingerprint = models.CharField(max_length=64)  # sha256 of method, path and body
    answer_sealed = models.TextField(null=True)  # null: still under way
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        app_label = "common"
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "principal", "key"], name="idempotency_key_once", nulls_distinct=False
            )
        ]

    def __str__(self) -> str:
        return self.key


@dataclass(frozen=True, kw_only=True)
class KeptAnswer:
    """What the first request was answered."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One use of one key: whose, which, and for what."""

    tenant_id: str | None
    principal: str
    key: str
    fingerprint: str

    @property
    def _context(self) -> str:
        return f"idempotency:{self.tenant_id or ''}:{self.principal}:{self.key}"

    def take(self, *, now: datetime) -> KeptAnswer | None:
        """None: the work is yours to do. Needs a transaction. Raises KeyReused, KeyInUse, KeyInvalid."""
        if not 1 <= len(self.key) <= KEY_MAX or not self.key.isascii() or not self.key.isprintable():
            raise KeyInvalid(f"From 1 to {KEY_MAX} visible ASCII characters.")
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", [self._context])
            if not cursor.fetchone()[0]:
                raise KeyInUse("Wait for its answer, then ask again.", retry_after_s=1)
        row = self._rows().first()
        if row is None:
            IdempotentRequest.objects.create(
                tenant_id=self.tenant_id,
                principal=self.principal,
                key=self.key,
                fingerprint=self.fingerprint,
                created_at=now,
            )
            return None
        if row.fingerprint != self.fingerprint:
            raise KeyReused("Use a new key for a new request.")
        if row.answer_sealed is not None:
            return KeptAnswer(**json.loads(open_sealed(row.answer_sealed, context=self._context)))
        if row.created_at > now - timedelta(seconds=CLAIM_LIFE_S):
            raise KeyInUse("Wait for its answer, then ask again.", retry_after_s=1)
        self._rows().update(created_at=now)  # whoever held it died
        return None

    def keep(self, answer: KeptAnswer) -> None:
        """In the transaction of the work."""
        said = {"status": answer.status, "body": answer.body, "headers": answer.headers}
        self._rows().update(answer_sealed=seal(json.dumps(said).encode(), context=self._context))

    def release(self) -> None:
        """The work was not done: the key is free again."""
        self._rows().filter(answer_sealed=None).delete()

    def _rows(self) -> models.QuerySet[IdempotentRequest]:
        return IdempotentRequest.objects.filter(
            tenant_id=self.tenant_id, principal=self.principal, key=self.key
        )
