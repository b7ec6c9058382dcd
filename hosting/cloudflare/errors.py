"""What can go wrong at Cloudflare, as one family that answers one question: try again, or stop?

    CloudflareError
    ├── Permanent            the same request will be answered the same way
    │   ├── Rejected         the vendor refuses this input; code and message are the vendor's
    │   ├── Conflict         something of that name exists already
    │   ├── NotEmpty         a bucket still holds objects
    │   ├── NotFound         there is no such thing
    │   └── Unauthorised     the token does not open this account
    └── Transient            the same request may work later
        ├── Unavailable      timeout, broken connection, 5xx: *whether it was carried out is unknown*
        ├── Busy             refused for now (concurrent modification): nothing was done
        └── RateLimited      429; wait `retry_after_s`
            └── OutOfBudget  our own bucket is empty; nothing was sent

Codes are per product and never mapped globally: 10006 is "no bucket" in R2 and something else in Workers. Only the status
429 and the authentication codes mean the same everywhere.
Sources: https://developers.cloudflare.com/workers/observability/errors/ ·
https://developers.cloudflare.com/r2/api/error-codes/ · https://developers.cloudflare.com/kv/ · https://developers.cloudflare.com/d1/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final


class CloudflareError(Exception):
    """`code` is the vendor's (0: none), `message` its words or ours; neither ever holds a token."""

    permanent = False
    outcome_unknown = False

    def __init__(self, message: str, *, code: int = 0, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.message} [code {self.code}]" if self.code else self.message


class Permanent(CloudflareError):
    permanent = True


class Rejected(Permanent):
    pass


class Conflict(Permanent):
    pass


class NotEmpty(Permanent):
    pass


class NotFound(Permanent):
    pass


class Unauthorised(Permanent):
    pass


class Transient(CloudflareError):
    pass


class Unavailable(Transient):
    outcome_unknown = True


class Busy(Transient):
    pass


class RateLimited(Transient):
    pass


class OutOfBudget(RateLimited):
    pass


#: Product → code → what it means there. Everything else is told by the HTTP status.
CODES: Final[Mapping[str, Mapping[int, type[CloudflareError]]]] = {
    "workers": {
        10007: NotFound,  # no such script
        10090: NotFound,  # no such service
        10092: NotFound,  # no such script in the dispatch namespace
        100119: NotFound,  # no such dispatch namespace
        10035: Busy,  # modified concurrently
    },
    "kv": {10014: Conflict, 10013: NotFound, 10011: NotFound},
    "r2": {10006: NotFound, 10008: NotEmpty, 10004: Conflict, 10073: Conflict},
    "d1": {7404: NotFound, 7502: Conflict},
}
AUTHENTICATION: Final = frozenset({10000, 9109, 9106, 6003, 6111})


def error_of(
    *, product: str, status: int, code: int, message: str, retry_after_s: float | None
) -> CloudflareError:
    """The error an answer stands for. `product` is a key of CODES, or other text for none of them."""
    if status == 429:
        # The code in the body varies; the status does not.
        return RateLimited(message, code=code, retry_after_s=retry_after_s)
    if status in {401, 403} and code in AUTHENTICATION:
        return Unauthorised(message, code=code)
    if status >= 500 or status == 408:
        # Whatever the code: 10013 is "unknown error" in a 500 and "no such namespace" in KV's 404.
        return Unavailable(message, code=code, retry_after_s=retry_after_s)
    known = CODES.get(product, {}).get(code)
    if known is not None:
        return known(message, code=code, retry_after_s=retry_after_s)
    by_status: dict[int, type[CloudflareError]] = {
        401: Unauthorised,
        403: Unauthorised,
        404: NotFound,
        409: Conflict,
    }
    return by_status.get(status, Rejected)(message, code=code)
