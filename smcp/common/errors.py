"""What can be wrong with a wish, as one family. A door translates a family into its own convention, once.

DomainError
├── Unauthenticated   nobody we know
├── Denied            known, but may not
├── NotFound          not there, or not yours: the two look the same
├── Invalid           the wish itself is wrong; `fields` says where
├── Conflict          right, but not now: the state of things forbids it
├── Stale             the caller looked at an older state (If-Match)
├── TooLarge          more bytes than allowed
├── TooMany           more requests at once than allowed
└── Unavailable       our side cannot at the moment; `retry_after_s` says when to ask again

Subclasses live beside the code that raises them and give a `code` (stable, part of the API) and a `title`.
"""

from __future__ import annotations

from collections.abc import Mapping


class DomainError(Exception):
    """`str(error)` is one or two sentences for a person; it never holds a secret. Without a detail the first field speaks."""

    code = "error"
    title = "The request could not be carried out"

    def __init__(
        self,
        detail: str = "",
        *,
        fields: Mapping[str, str] | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        self.fields = dict(fields or {})
        super().__init__(detail or first_reason(self.fields) or self.title)
        self.retry_after_s = retry_after_s


def first_reason(fields: Mapping[str, str]) -> str:
    """`slug: At most 24 characters.`, and how many more there are."""
    if not fields:
        return ""
    field, why = next(iter(fields.items()))
    more = f" (and {len(fields) - 1} more)" if len(fields) > 1 else ""
    return f"{field}: {why}{more}"


class Unauthenticated(DomainError):
    code = "unauthenticated"
    title = "A valid API key is needed"


class Denied(DomainError):
    code = "denied"
    title = "Not allowed"


class NotFound(DomainError):
    code = "not-found"
    title = "Not found"

    def __init__(self, what: str = "thing") -> None:
        super().__init__(f"There is no such {what}.")


class Invalid(DomainError):
    code = "invalid"
    title = "The request is not valid"


class Conflict(DomainError):
    code = "conflict"
    title = "The present state does not allow this"


class Stale(DomainError):
    code = "stale"
    title = "It has changed since you read it"


class TooLarge(DomainError):
    code = "too-large"
    title = "Too large"


class TooMany(DomainError):
    code = "too-many"
    title = "Too many at once"


class Unavailable(DomainError):
    code = "unavailable"
    title = "Not available at the moment"
