"""The commands an operator types: the demo, operators, their keys."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hosting.models import Deployment
from smcp.common.tenancy import as_system
from tenants.models import ApiKey, User
from tests.parts import Parts
from tests.restdoor import OwnProcess, RestDoor, manage
from tests.rooms import only_room

pytestmark = pytest.mark.usefixtures("committed_db")


def demo(parts: Parts, *arguments: str, **environ: str) -> dict[str, Any]:
    done = manage(parts, "demo", *arguments, **environ)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture
def room(worker: OwnProcess) -> Iterator[None]:
    """A worker, and nowhere to put anything but in its account."""
    with only_room("default"):
        yield


def test_the_demo_is_made_once_and_found_ever_after(parts: Parts, room: None, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    first = demo(parts, "--state", str(state))
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    assert first["demo"]["endpoint"].endswith("/demo/starter/mcp")
    with as_system():
        assert Deployment.objects.filter(tenant__slug="demo", is_active=True).count() == 1
        assert User.objects.get(email=first["operator"]["email"]).check_password(
            first["operator"]["password"]
        )
    assert demo(parts, "--state", str(state)) == first
    with as_system():
        assert Deployment.objects.filter(tenant__slug="demo").count() == 1

    # Nobody remembers: there is a new password and a new key, and the old key is revoked.
    second = demo(parts, SMCP_OPERATOR_PASSWORD=first["operator"]["password"])
    assert second["operator"]["password"] == first["operator"]["password"]
    assert second["demo"]["api_key"] != first["demo"]["api_key"]
    with as_system():
        assert ApiKey.objects.filter(tenant__slug="demo", revoked_at=None).count() == 1


def test_an_operator_made_by_hand_may_enter_and_a_weak_password_is_refused(parts: Parts) -> None:
    done = manage(parts, "create_operator", "boss@example.com")
    assert done.returncode == 0, done.stderr
    password = done.stdout.strip().rpartition(" ")[2]
    with as_system():
        user = User.objects.get(email="boss@example.com")
    assert user.check_password(password)
    assert user.is_staff
    again = manage(
        parts, "create_operator", "boss@example.com", "--password-stdin", typed="a better password\n"
    )
    assert (again.returncode, "password" in again.stdout) == (0, False)
    with as_system():
        assert User.objects.get(email="boss@example.com").check_password("a better password")
    weak = manage(parts, "create_operator", "boss@example.com", "--password-stdin", typed="password1234\n")
    odd = manage(parts, "create_operator", "not an address")
    for refused in (weak, odd):
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.count("\n") == 1


def test_an_operators_key_made_by_hand_opens_the_rest_door(parts: Parts, rest_door: RestDoor) -> None:
    done = manage(parts, "create_operator_key", "ops", "--days", "1")
    assert done.returncode == 0, done.stderr
    assert rest_door.caller(done.stdout.strip()).get("/tenants").status_code == 200
