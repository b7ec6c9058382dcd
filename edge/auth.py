"""Who may call: bearer tokens, each of which opens the accounts it was configured for, and nothing else.

Codes as Cloudflare answers them: no header 9106, a malformed one 6003, an unknown token 10000 (9109 outside accounts),
somebody else's account 10000.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from aiohttp import web

from edge.config import TOKEN, Account, Config
from edge.envelope import ApiError


class AuthError(ApiError):
    """MissingAuthorization (400) · MalformedAuthorization (400) · UnknownToken (401, 403) · Forbidden (403)."""


class MissingAuthorization(AuthError):
    def __init__(self) -> None:
        super().__init__(400, 9106, "Missing X-Auth-Key, X-Auth-Email or Authorization headers")


class MalformedAuthorization(AuthError):
    def __init__(self) -> None:
        chain = [(6111, "Invalid format for Authorization header")]
        super().__init__(400, 6003, "Invalid request headers", chain=chain)


class UnknownToken(AuthError):
    def __init__(self, *, in_account: bool) -> None:
        if in_account:
            super().__init__(401, 10000, "Authentication error")
        else:
            super().__init__(403, 9109, "Invalid access token")


class Forbidden(AuthError):
    def __init__(self) -> None:
        super().__init__(403, 10000, "Authentication error")


@dataclass(frozen=True)
class Caller:
    """A known token. `id` is its public id; the token itself goes no further than this module."""

    id: str
    accounts: tuple[Account, ...]

    def may_open(self, account_id: str) -> bool:
        return any(account.id == account_id for account in self.accounts)


def token_id(token: str) -> str:
    """A token's public id, 32 hex digits that tell nothing of it."""
    return hashlib.sha256(b"edge-token-id:" + token.encode()).hexdigest()[:32]


def authenticate(request: web.Request, config: Config) -> Caller:
    """The caller behind the Authorization header. Raises AuthError."""
    header = request.headers.get("authorization")
    if header is None:
        raise MissingAuthorization
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not TOKEN.fullmatch(token):
        raise MalformedAuthorization
    # Every token is compared, so the time taken tells nothing.
    accounts = [
        account
        for account in config.accounts
        if sum(hmac.compare_digest(token, known) for known in account.tokens)
    ]
    if not accounts:
        raise UnknownToken(in_account="account_id" in request.match_info)
    return Caller(id=token_id(token), accounts=tuple(accounts))


def authorize(caller: Caller, account_id: str) -> None:
    """Raises Forbidden unless the caller's token opens the account, whether that exists or not."""
    if not caller.may_open(account_id):
        raise Forbidden
