"""Who am I: tokens, accounts, the user behind a token. What `wrangler whoami` and every client's first call ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from edge.auth import Caller
from edge.config import Account
from edge.container import Edge
from edge.envelope import page_of, success
from edge.routes import ACCOUNT, Route, account_of, caller_of

CREATED_ON = "2024-01-01T00:00:00.000000Z"


async def verify(request: web.Request, edge: Edge) -> web.Response:
    result = {"id": caller_of(request).id, "status": "active"}
    return success(result, messages=[{"code": 10000, "message": "This API Token is valid and active"}])


async def list_accounts(request: web.Request, edge: Edge) -> web.Response:
    page = page_of(request, default=20, largest=50)
    wanted = request.query.get("name", "")
    accounts = [_account(account) for account in caller_of(request).accounts]
    accounts = [account for account in accounts if wanted in account["name"]]
    shown = page.of(accounts)
    return success(shown, result_info=page.info(count=len(shown), total=len(accounts)))


async def get_account(request: web.Request, edge: Edge) -> web.Response:
    account_id = account_of(request)
    return success(next(_account(a) for a in caller_of(request).accounts if a.id == account_id))


async def get_user(request: web.Request, edge: Edge) -> web.Response:
    caller = caller_of(request)
    result = {
        "id": caller.id,
        "email": _email(caller),
        "first_name": None,
        "last_name": None,
        "suspended": False,
    }
    return success(result)


async def list_memberships(request: web.Request, edge: Edge) -> web.Response:
    page = page_of(request, default=20, largest=50)
    memberships = [
        {
            "id": account.id,
            "status": "accepted",
            "account": _account(account),
            "roles": ["Super Administrator"],
        }
        for account in caller_of(request).accounts
    ]
    shown = page.of(memberships)
    return success(shown, result_info=page.info(count=len(shown), total=len(memberships)))


def _account(account: Account) -> dict[str, Any]:
    return {
        "id": account.id,
        "name": f"edge {account.id[:8]}",
        "type": "standard",
        "settings": {"enforce_twofactor": False},
        "created_on": CREATED_ON,
    }


def _email(caller: Caller) -> str:
    return f"token-{caller.id[:8]}@edge.invalid"


ROUTES: Sequence[Route] = (
    Route("GET", "/user/tokens/verify", "token.verify", verify),
    Route("GET", ACCOUNT + "/tokens/verify", "token.verify", verify),
    Route("GET", "/user", "user.get", get_user),
    Route("GET", "/memberships", "memberships.list", list_memberships),
    Route("GET", "/accounts", "accounts.list", list_accounts),
    Route("GET", ACCOUNT, "accounts.get", get_account),
)
