"""Secrets go in and never come out."""

from __future__ import annotations

import pytest

from hosting.models import Secret
from hosting.models.resource import context_of
from smcp.common.audit import AuditEvent
from smcp.common.sealing import CannotOpen, open_sealed
from smcp.common.tenancy import as_tenant
from tests.hosting.api.test_servers import make_server
from tests.restdoor import RestDoor, TenantAtTheDoor

VALUE = "  s3cr3t-Zaphod-42  "


def secrets_of(tenant: TenantAtTheDoor) -> str:
    return f"{make_server(tenant)}/environments/production/secrets"


@pytest.mark.acceptance("S0.28", "S4.27")
def test_a_secret_is_listed_by_name_and_its_value_is_nowhere(
    rest_door: RestDoor, acme: TenantAtTheDoor
) -> None:
    path, caller = secrets_of(acme), acme.caller("api:write")
    answers = [caller.request("PUT", f"{path}/API_TOKEN", json={"value": VALUE})]
    answers += [caller.request("PUT", f"{path}/API_TOKEN", json={"value": VALUE, "x": 1})]
    answers += [caller.get(path), caller.get(f"{acme.path}/audit-events")]
    assert [answer.status_code for answer in answers] == [200, 422, 200, 200]
    listed = [(secret["name"], secret["revision"]) for secret in answers[2].json()["items"]]
    assert listed == [("API_TOKEN", 1)]
    assert not any(VALUE.strip() in answer.text for answer in answers)
    assert VALUE.strip() not in "\n".join(rest_door.said)
    with as_tenant(acme.id):
        row = Secret.objects.get(name="API_TOKEN")
        assert VALUE.strip() not in str(vars(row))
        assert VALUE.strip() not in str(list(AuditEvent.objects.values()))
        context = context_of(acme.id, row.environment_id, "API_TOKEN")
    assert open_sealed(row.sealed, context=context).decode() == VALUE
    with pytest.raises(CannotOpen):
        open_sealed(row.sealed, context=context_of(acme.id, row.environment_id, "OTHER"))


def test_each_value_is_a_revision_and_a_deleted_name_goes_on_counting(acme: TenantAtTheDoor) -> None:
    path, caller = f"{secrets_of(acme)}", acme.caller("api:write")
    for revision in (1, 2):
        assert caller.ok("PUT", f"{path}/KEY", json={"value": f"v{revision}"})["revision"] == revision
    assert caller.request("DELETE", f"{path}/KEY").status_code == 204
    assert caller.request("DELETE", f"{path}/KEY").status_code == 404
    assert caller.ok("GET", path)["items"] == []
    assert caller.ok("PUT", f"{path}/KEY", json={"value": "v3"})["revision"] == 3


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("1KEY", "x", "name"),
        ("A-B", "x", "name"),
        ("K" * 81, "x", "name"),
        ("KEY", "", "value"),
        ("KEY", "x" * 5121, "value"),
    ],
)
def test_a_secret_that_code_could_not_see_is_refused(
    acme: TenantAtTheDoor, name: str, value: str, field: str
) -> None:
    refused = acme.caller("api:write").request("PUT", f"{secrets_of(acme)}/{name}", json={"value": value})
    assert refused.status_code == 422
    assert field in {error["field"] for error in refused.json()["errors"]}


def test_an_environment_holds_so_many_and_no_more(acme: TenantAtTheDoor) -> None:
    path, caller = secrets_of(acme), acme.caller("api:write")
    for number in range(128):
        caller.ok("PUT", f"{path}/K{number}", json={"value": "x"})
    assert caller.request("PUT", f"{path}/ONE_MORE", json={"value": "x"}).status_code == 422
    assert caller.request("PUT", f"{path}/K0", json={"value": "y"}).status_code == 200
