"""docker-compose.yml, read as Compose reads it: everything it names is there."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from smcp.stack.envfile import compose_environ
from smcp.stack.secrets import new_secrets
from tests.nginx import find_nginx
from tests.parts import ROOT

TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
OURS = [name for name, service in COMPOSE["services"].items() if service.get("image") == "smcp"]


def test_every_process_of_the_platform_is_a_service() -> None:
    workers = {"worker", "checker", "monitor"}
    assert set(OURS) == {"prepare", "edge", "api", "console", "beat", "gateway", "balancer"} | workers


@pytest.mark.parametrize("name", OURS)
def test_the_command_of_a_service_exists(name: str) -> None:
    service = COMPOSE["services"][name]
    commands = [service["command"]]
    if "healthcheck" in service:
        kind, *check = service["healthcheck"]["test"]
        commands.append(check if kind == "CMD" else check[0].split())
    if name == "balancer":
        assert commands.pop(0)[0] == "nginx"
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


@pytest.mark.acceptance("S3.29", "S3.30")
def test_nginx_stands_in_front_of_more_than_one_gateway() -> None:
    gateway, balancer = COMPOSE["services"]["gateway"], COMPOSE["services"]["balancer"]
    assert gateway["deploy"]["replicas"] >= 2
    assert "ports" not in gateway  # they could not all have the same
    assert balancer["ports"] == ["127.0.0.1:8080:8080"]
    assert balancer["depends_on"]["gateway"] == {"condition": "service_healthy"}
    assert "nginx-light" in (ROOT / "Dockerfile").read_text()


@pytest.mark.nginx
@pytest.mark.acceptance("S3.29")
def test_the_nginx_of_the_containers_starts_with_its_configuration(tmp_path: Path) -> None:
    """But for the names that only Compose's DNS knows, and the places of its logs."""
    command = COMPOSE["services"]["balancer"]["command"]
    asked = urlsplit(COMPOSE["services"]["balancer"]["healthcheck"]["test"][-1])
    told = (ROOT / "docs" / "nginx" / "gateway.conf").read_text().partition(f"listen {asked.netloc};")[2]
    assert f"location = {asked.path} {{" in told
    config = Path(command[command.index("-c") + 1]).relative_to("/app")
    shutil.copytree(ROOT / "docs" / "nginx", tmp_path / "docs" / "nginx")
    for name, old, new in (
        ("compose/smcp-nodes.conf", "server gateway:", "server 127.0.0.1:"),
        ("gateway.conf", "/var/log/nginx", str(tmp_path)),
    ):
        file = tmp_path / "docs" / "nginx" / name
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
    program = find_nginx()
    assert program, "no nginx here: install nginx-light"
    tried = subprocess.run(
        [program, "-t", "-e", "stderr", "-p", str(tmp_path), "-c", str(tmp_path / config)],
        capture_output=True,
        text=True,
    )
    assert tried.returncode == 0, tried.stderr


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
