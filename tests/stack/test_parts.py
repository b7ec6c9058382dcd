"""The parts the tests themselves stand on."""

from __future__ import annotations

import socket

import psycopg
import pytest
import redis
from django.db import connection

from smcp.common import tenancy
from smcp.stack.postgres import Postgres
from tests.parts import Parts


@pytest.mark.usefixtures("committed_db")
def test_a_test_acts_as_smcp_app_and_may_become_the_system() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user")
        assert cursor.fetchone() == ("smcp_app",)
    with tenancy.as_system(), connection.cursor() as cursor:
        cursor.execute("SELECT current_user")
        assert cursor.fetchone() == ("smcp_system",)


def test_the_login_of_the_api_cannot_become_the_system(postgres: Postgres, parts: Parts) -> None:
    with (
        psycopg.connect(parts.places.logins.app) as api,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        api.execute("SET ROLE smcp_system")


def test_redis_refuses_a_client_without_the_password(redis_url: str, parts: Parts) -> None:
    with redis.Redis(port=parts.redis.port) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_a_socket_past_loopback_is_refused() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, pytest.raises(PermissionError):
        probe.connect(("192.0.2.1", 9))
