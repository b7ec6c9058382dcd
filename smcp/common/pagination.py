"""Pages of a listing, newest first, cut by id: rows added meanwhile never shift what a reader has yet to see.

A cursor is signed for one listing, so nobody builds one by hand or carries it elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from django.core.signing import BadSignature, Signer
from django.db.models import Model, QuerySet

from smcp.common.errors import Invalid

LIMIT_DEFAULT: Final = 25
LIMIT_MAX: Final = 100

Row = TypeVar("Row", bound=Model)


class CursorInvalid(Invalid):
    code = "cursor-invalid"
    title = "The cursor is not one of this listing"


@dataclass(frozen=True)
class Page(Generic[Row]):
    rows: Sequence[Row]
    next_cursor: str | None


def cut_page(rows: QuerySet[Row], *, listing: str, cursor: str | None, limit: int) -> Page[Row]:
    """`listing` names what is listed, for instance its path. Raises CursorInvalid."""
    signer = Signer(salt=f"cursor:{listing}")
    rows = rows.order_by("-id")
    if cursor:
        try:
            rows = rows.filter(pk__lt=signer.unsign(cursor))
        except BadSignature as exc:
            raise CursorInvalid(fields={"cursor": "Follow `next` as it was given."}) from exc
    found = list(rows[: limit + 1])
    has_more = len(found) > limit
    return Page(found[:limit], signer.sign(str(found[limit - 1].pk)) if has_more else None)
