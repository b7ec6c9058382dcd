"""Every queue has processes of its own, in `make up` and in containers."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from django.conf import settings

from smcp import queues
from smcp.stack import services
from smcp.stack.config import parse_config
from tests.parts import ROOT, Parts

OURS = queues.queues_of(settings.INSTALLATION)
EACH = {"worker": OURS.operations, "checker": OURS.checks, "monitor": OURS.probes}


def taken_by(command: tuple[str, ...]) -> str:
    return command[command.index("--queues") + 1]


def test_every_queue_is_known_to_celery() -> None:
    assert {queue.name for queue in settings.CELERY_TASK_QUEUES} == set(EACH.values())
    assert OURS.operations == settings.CELERY_TASK_DEFAULT_QUEUE


@pytest.mark.parametrize(
    ("task", "queue"),
    [("hosting.tasks.check_upload", OURS.checks), ("hosting.tasks.probe_environments", OURS.probes)],
)
def test_what_others_must_not_wait_for_stands_in_a_queue_of_its_own(task: str, queue: str) -> None:
    from celery import current_app

    assert current_app.amqp.router.route({}, task)["queue"].name == queue


def test_make_up_starts_one_process_a_queue(parts: Parts) -> None:
    config = parse_config({})
    workers = (services.worker, services.checker, services.monitor)
    started = [describe(config, parts.places, parts.secrets).process for describe in workers]
    assert {process.name: taken_by(process.command) for process in started} == EACH


def test_compose_runs_one_service_a_queue() -> None:
    compose: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    commands = {name: tuple(service.get("command", ())) for name, service in compose["services"].items()}
    workers = {name: taken_by(command) for name, command in commands.items() if "--queues" in command}
    expected = queues.queues_of("${SMCP_INSTALLATION:-}")
    assert workers == {
        "worker": expected.operations,
        "checker": expected.checks,
        "monitor": expected.probes,
    }
