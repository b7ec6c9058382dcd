"""docker-compose.yml, read as Compose reads it: everything it names is there."""

from __future__ import annotations

import ast
import importlib.util
import re
from typing import Any

import pytest
import yaml

from smcp.stack.envfile import compose_environ
from smcp.stack.secrets import new_secrets
from tests.parts import ROOT

TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
OURS = [name for name, service in COMPOSE["services"].items() if service.get("image") == "smcp"]


def test_every_process_of_the_platform_is_a_service() -> None:
    workers = {"worker", "checker", "monitor"}
    assert set(OURS) == {"prepare", "edge", "api", "console", "beat", "gateway"} | workers


@pytest.mark.parametrize("name", OURS)
def test_the_command_of_a_service_exists(name: str) -> None:
    service = COMPOSE["services"][name]
    commands = [service["command"]]
    if "healthcheck" in service:
        kind, *check = service["healthcheck"]["test"]
        commands.append(check if kind == "CMD" else check[0].split())
    for command in commands:
        assert command[:2] == ["python", "-m"]
        assert importlib.util.find_spec(command[2]) is not None, command
        for module in re.findall(r"\b(smcp\.(?:asgi|celery))\b", " ".join(command)):
            source = ROOT / (module.replace(".", "/") + ".py")
            assigned = {
                target.id
                for node in ast.walk(ast.parse(source.read_text()))
                if isinstance(node, ast.Assign)
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            assert assigned & {"application", "app"}


def test_every_service_that_stays_has_a_health_check() -> None:
    without = {name for name, service in COMPOSE["services"].items() if "healthcheck" not in service}
    assert without == {"prepare"}


def test_images_are_pinned() -> None:
    for service in COMPOSE["services"].values():
        assert service["image"] == "smcp" or re.fullmatch(r"[a-z]+:\d+\.\d+[.\d]*-[a-z]+", service["image"])
    first_line = next(
        line for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("FROM")
    )
    assert re.fullmatch(r"FROM python:\d+\.\d+\.\d+-slim-[a-z]+", first_line)


def test_doors_are_published_on_loopback_only() -> None:
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_every_secret_it_names_is_in_the_env_file() -> None:
    without_default = set(re.findall(r"\$\{([A-Z_]+):-\}", TEXT))
    assert without_default == set(compose_environ(new_secrets())) - {"COMPOSE_PROFILES"}


def test_every_volume_and_dependency_is_declared() -> None:
    for service in COMPOSE["services"].values():
        assert set(service.get("depends_on", ())) <= set(COMPOSE["services"])
        for volume in service.get("volumes", ()):
            assert volume.partition(":")[0] in COMPOSE["volumes"]
