"""What the guides tell people to type works as it stands there."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from hosting.compatibility import EARLIEST_DATE, RUNTIME_DATE
from hosting.models import Environment, Server
from smcp.console.pages.endpoints import INSPECTOR, NODE, describe_endpoint
from tenants.models import Tenant
from tests.parts import ROOT

GUIDE = (ROOT / "docs/tenant-guide.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
README = (ROOT / "README.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_inspector_people_are_told_to_use_is_the_one_our_tests_use_with_the_node_it_needs() -> None:
    package = json.loads((ROOT / "tests/node/package.json").read_text())
    locked = json.loads((ROOT / "tests/node/package-lock.json").read_text())["packages"]
    name = "@modelcontextprotocol/inspector"
    assert f"{name}@{package['dependencies'][name]}" == INSPECTOR
    assert locked[f"node_modules/{name}"]["engines"]["node"].removeprefix(">=").startswith(f"{NODE}.")
    assert re.findall(rf"npx (?:-y )?({name}\S*)", GUIDE) == [INSPECTOR]
    assert f"Node.js {NODE} or newer" in GUIDE


def test_the_console_names_the_inspectors_version_and_its_node() -> None:
    server = Server(slug="weather", tenant=Tenant(slug="acme"))
    shown = describe_endpoint(Environment(slug="production", server=server, access=["api_key"]))
    assert shown.command.startswith(f"npx {INSPECTOR} --cli {shown.url} --transport http ")
    assert shown.needs == f"Node.js {NODE} or newer"
    assert json.loads(shown.config)["mcpServers"]["weather"]["type"] == "http"


@pytest.mark.parametrize("text", [README, GUIDE], ids=["README", "tenant guide"])
def test_settings_for_clients_say_how_a_server_is_reached(text: str) -> None:
    settings = [json.loads(block) for block in blocks(text, "json") if "mcpServers" in block]
    entries = [entry for each in settings for entry in each["mcpServers"].values()]
    assert entries
    assert all(("command" in entry) != (entry.get("type") == "http") for entry in entries)


@pytest.mark.parametrize("text", [README, GUIDE], ids=["README", "tenant guide"])
def test_every_variable_is_set_before_it_is_used(text: str) -> None:
    known: set[str] = set()
    for line in "\n".join(blocks(text, "sh")).splitlines():
        known |= set(re.findall(r"\b([A-Z_]+)=", line))
        assert set(re.findall(r"\$([A-Z_]+)", line)) <= known, line


def test_the_guide_knows_which_days_the_runtime_has() -> None:
    assert f"from {EARLIEST_DATE} to today, but not after {RUNTIME_DATE}" in GUIDE


def test_a_cold_backup_is_its_owners_alone_and_keeps_the_secrets_apart(tmp_path: Path) -> None:
    [block] = [block for block in blocks(OPERATIONS, "sh") if "var.tgz" in block]
    [backup] = re.findall(r"^\(umask 077;.*?\)$", block, re.DOTALL | re.MULTILINE)
    [restore] = re.findall(r"^tar -xz.*install .*?(?= && make up)", block, re.MULTILINE)
    checkout, fresh = tmp_path / "checkout", tmp_path / "fresh"
    places = {"DATA": str(tmp_path / "data"), "SECRETS": str(tmp_path / "safe"), "PATH": "/usr/bin:/bin"}
    (checkout / "var/blobs").mkdir(parents=True)
    fresh.mkdir()
    for name in ("secrets.json", "stack.json", "blobs/secrets.json"):
        (checkout / "var" / name).write_text(name)
    subprocess.run(["bash", "-ec", backup], cwd=checkout, env=places, check=True)

    kept = [path for place in (tmp_path / "data", tmp_path / "safe") for path in (place, *place.iterdir())]
    assert [path.name for path in kept] == ["data", "var.tgz", "safe", "secrets.json"]
    assert [stat.S_IMODE(path.stat().st_mode) & 0o077 for path in kept] == [0, 0, 0, 0]
    with tarfile.open(tmp_path / "data/var.tgz") as archive:
        names = archive.getnames()
    assert "var/blobs/secrets.json" in names
    assert not {"var/secrets.json", "var/stack.json"} & set(names)

    subprocess.run(["bash", "-ec", restore], cwd=fresh, env=places, check=True)
    assert (fresh / "var/secrets.json").read_text() == "secrets.json"
    assert (fresh / "var/blobs/secrets.json").exists()
