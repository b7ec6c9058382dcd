"""Whatever is sent, the answer is a problem with a reason, never a 500."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smcp.common.wording import OTHERWISE
from tests.hosting.api.test_permissions import ALL
from tests.hosting.api.test_servers import make_server
from tests.parts import Parts
from tests.restdoor import RestDoor, TenantAtTheDoor, make_operator

SENDING = sorted({(method, path) for method, path, _ in ALL if method in {"POST", "PUT", "PATCH"}})
TEXT = st.text(max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
#: Keys our bodies know, so that nonsense gets past the first look.
KNOWN = st.sampled_from(
    [
        *("slug", "name", "description", "kind", "catalog", "access", "allowed_origins", "egress_allow"),
        *("limits", "variables", "releases_kept", "versions", "value", "reason", "scopes", "environments"),
        *("expires_at", "email", "role", "plan"),
    ]
)
BODIES = JSON | st.dictionaries(KNOWN, JSON, max_size=4)


@pytest.mark.parametrize(("method", "path"), SENDING, ids=[f"{m} {p}" for m, p in SENDING])
def test_a_nonsensical_body_is_refused_with_a_reason(
    rest_door: RestDoor, acme: TenantAtTheDoor, method: str, path: str
) -> None:
    make_server(acme)
    operator = make_operator(rest_door)
    where = path
    for name, value in {"tenant": acme.slug, "server": "weather", "environment": "production"}.items():
        where = where.replace(f"{{{name}}}", value)

    @given(body=BODIES, rest=st.text(min_size=1, max_size=20))
    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def send(body: Any, rest: str) -> None:
        at = "/".join(quote(rest, safe="") if part.startswith("{") else part for part in where.split("/"))
        for caller in (acme.caller(), operator):
            answer = caller.request(method, at, content=json.dumps(body).encode())
            assert answer.status_code < 500, answer.text
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.json()["type"].startswith("urn:smcp:problem:")
                reasons = [error["detail"] for error in answer.json().get("errors", ())]
                assert OTHERWISE not in reasons

    send()


def test_a_database_that_is_away_is_503_with_when_to_come_back(
    parts: Parts, acme: TenantAtTheDoor, free_port: int
) -> None:
    lost = RestDoor(parts, free_port, SMCP_APP_DATABASE_URL="postgresql://smcp_app:x@127.0.0.1:1/smcp")
    lost.start(healthy=False)
    try:
        assert lost.http.get("/healthz").status_code == 503
        refused = lost.caller(acme.keys["api:read"]).get(acme.path)
    finally:
        lost.stop()
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:smcp:problem:unavailable")
    assert refused.headers["retry-after"]
