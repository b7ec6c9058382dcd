"""The account of the run's edge, made ready as an operator does it, and fresh tenants in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from hosting.models import Account
from hosting.provisioning.accounts import ensure_account
from tests.hosting.provisioning.workers import StartWorker, Worker
from tests.hosting.provisioning.world import World, make_world
from tests.parts import Parts, PlatformEdge
from tests.rooms import only_room


@pytest.fixture
def account(edge: PlatformEdge, redis_url: str, committed_db: None, settings: Settings) -> Iterator[Account]:
    """The only one that takes anything."""
    settings.DRAIN_S = 0
    ready = ensure_account(
        name="edge",
        cloudflare_account_id=edge.account_id,
        token=edge.token,
        api_base_url=edge.api_url,
        dispatch_url=settings.DISPATCH_URL,
        dispatch_host=settings.DISPATCH_HOST,
        now=timezone.now(),
    )
    with only_room(ready.name):
        yield ready


@pytest.fixture
def make(edge: PlatformEdge, account: Account) -> Iterator[Callable[[], World]]:
    """Makes worlds; the edge behaves again afterwards."""
    made: list[World] = []

    def make_one() -> World:
        made.append(make_world(edge, account))
        return made[-1]

    yield make_one
    for world in made[:1]:
        world.no_faults()


@pytest.fixture
def world(make: Callable[[], World]) -> World:
    return make()


@pytest.fixture
def start_worker(parts: Parts, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts Celery workers; whatever became of them, they are gone after the test."""
    started: list[Worker] = []

    def start(**options: Any) -> Worker:
        started.append(Worker(parts, tmp_path, **options))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()
