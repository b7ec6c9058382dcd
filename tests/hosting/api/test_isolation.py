"""Postgres itself keeps tenants apart: a forgotten filter shows nothing of anybody else's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.db import DatabaseError, IntegrityError, connection, models, transaction

from hosting.models import Environment, Server
from smcp.common.tenancy import NotATenantId, TenantModel, as_system, as_tenant
from tenants.models import ApiKey, Tenant, User
from tests.hosting.api.test_servers import make_server
from tests.restdoor import TenantAtTheDoor


def tenant_models() -> Iterator[type[models.Model]]:
    for model in apps.get_models():
        names = {field.name for field in model._meta.get_fields()}
        if issubclass(model, TenantModel) or "tenant" in names:
            yield model


def visible(model: type[models.Model]) -> list[Any]:
    """Everything the transaction may see: no filter at all, columns nobody may read left out."""
    return list(model._default_manager.values_list("tenant_id", flat=True))


def test_there_are_tables_to_try() -> None:
    assert {"Server", "Secret", "ApiKey", "AuditEvent", "IdempotentRequest"} <= {
        m.__name__ for m in tenant_models()
    }


@pytest.mark.parametrize("model", list(tenant_models()), ids=lambda model: model.__name__)
@pytest.mark.acceptance("S4.5")
def test_without_any_filter_a_tenant_sees_its_own_rows_only(
    acme: TenantAtTheDoor, other: TenantAtTheDoor, model: type[models.Model]
) -> None:
    for tenant in (acme, other):
        make_server(tenant)
    with as_tenant(acme.id):
        assert set(visible(model)) <= {acme.id}
    with connection.cursor() as cursor:  # no tenant named: nothing at all
        cursor.execute(f"SELECT count(*) FROM {model._meta.db_table}")
        assert cursor.fetchone()[0] == 0


def test_nothing_can_be_written_for_another_tenant(acme: TenantAtTheDoor, other: TenantAtTheDoor) -> None:
    make_server(other)
    with as_tenant(acme.id):
        assert Server.objects.update(name="mine now") == 0
        assert Server.objects.all().delete()[0] == 0
    with pytest.raises(DatabaseError, match="row-level security"), as_tenant(acme.id):
        Server.objects.create(tenant_id=other.id, slug="planted", name="x", created_by="x")
    with as_tenant(other.id):
        assert [server.name for server in Server.objects.all()] == ["weather"]


def test_a_row_cannot_point_at_another_tenants_row(acme: TenantAtTheDoor, other: TenantAtTheDoor) -> None:
    make_server(acme)
    make_server(other)
    with as_tenant(other.id):
        theirs = Server.objects.get()
        account = Environment.objects.get().account_id
    with pytest.raises(IntegrityError), as_tenant(acme.id):
        Environment.objects.create(tenant_id=acme.id, server_id=theirs.id, slug="grafted", account_id=account)


def test_a_tenant_sees_no_other_tenant_and_cannot_make_itself_an_operator(
    acme: TenantAtTheDoor, other: TenantAtTheDoor
) -> None:
    with as_tenant(acme.id):
        assert list(Tenant.objects.values_list("id", flat=True)) == [acme.id]
        assert set(ApiKey.objects.values_list("tenant_id", flat=True)) == {acme.id}
    with pytest.raises(DatabaseError, match="permission denied"), as_tenant(acme.id):
        User.objects.update(is_staff=True)
    with pytest.raises(DatabaseError, match="permission denied"), as_tenant(acme.id):
        list(User.objects.values_list("password", flat=True))


def test_the_past_cannot_be_changed(acme: TenantAtTheDoor) -> None:
    from smcp.common.audit import AuditEvent

    for who in (as_tenant(acme.id), as_system()):
        with pytest.raises(DatabaseError, match="permission denied"), who:
            AuditEvent.objects.filter(tenant_id=acme.id).update(actor="somebody else")
    for who in (as_tenant(acme.id), as_system()):
        with pytest.raises(DatabaseError, match="permission denied"), who, connection.cursor() as cursor:
            cursor.execute("DELETE FROM common_auditevent")


def test_settings_do_not_outlive_their_transaction(acme: TenantAtTheDoor) -> None:
    with as_tenant(acme.id):
        assert ApiKey.objects.exists()
    with transaction.atomic():
        assert not ApiKey.objects.exists()


@pytest.mark.parametrize("made_up", ["", "x", "' OR true --", "0" * 25, "0" * 27])
def test_only_an_id_names_a_tenant(committed_db: None, made_up: str) -> None:
    with pytest.raises(NotATenantId), as_tenant(made_up):
        pass
