"""The catalog as the rest of the platform reads it, and its bundles as anybody may make them again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hosting.catalog import catalog
from hosting.catalog.catalog import CatalogEntry, NotInCatalog, get_entry, list_entries
from tests.toolchain import ensure_packages, npm_run

FOLDERS = sorted(path.parent for path in Path(catalog.__file__).parent.glob("*/catalog.json"))


def test_every_folder_is_an_entry() -> None:
    assert {entry.slug for entry in list_entries()} == {folder.name for folder in FOLDERS}
    assert "starter" in {entry.slug for entry in list_entries()}


def test_an_entry_holds_what_an_upload_needs() -> None:
    entry = get_entry("starter")
    assert isinstance(entry, CatalogEntry)
    assert entry.main_module in {module.name for module in entry.modules}
    assert {module.content_type for module in entry.modules} == {"application/javascript+module"}
    assert json.loads(json.dumps(entry.metadata)) == {
        "main_module": "worker.js",
        "compatibility_date": entry.compatibility_date,
        "compatibility_flags": [],
        "bindings": [
            {"name": "NOTES", "type": "kv_namespace"},
            {"name": "FILES", "type": "r2_bucket"},
            {"name": "ROWS", "type": "d1"},
        ],
    }


@pytest.mark.parametrize("slug", ["", "nothing", "../starter", "starter/dist", "__pycache__"])
def test_a_slug_that_is_not_in_the_catalog_is_refused(slug: str) -> None:
    with pytest.raises(NotInCatalog):
        get_entry(slug)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_committed_bundle_is_what_its_sources_build_to(folder: Path, tmp_path: Path) -> None:
    ensure_packages(folder)
    npm_run("build", str(tmp_path), folder=folder)
    built = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert Path("dist/worker.js") in built
    assert {path.relative_to(folder) for path in (folder / "dist").iterdir()} <= built
    for path in built:
        assert (tmp_path / path).read_bytes() == (folder / path).read_bytes(), f"{path}: run `npm run build`"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_entry_says_one_version_everywhere(folder: Path) -> None:
    about = re.search(r'VERSION = "(.+)"', (folder / "src/about.js").read_text())
    assert about
    package = json.loads((folder / "package.json").read_text())
    assert {about[1], package["version"]} == {get_entry(folder.name).version}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_toolchain_is_pinned_with_integrity_and_without_addresses(folder: Path) -> None:
    package = json.loads((folder / "package.json").read_text())
    wanted = {**package["dependencies"], **package["devDependencies"]}
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in wanted.values())
    locked = json.loads((folder / "package-lock.json").read_text())["packages"]
    assert all(entry.get("integrity", "").startswith("sha512-") for path, entry in locked.items() if path)
    assert not any("resolved" in entry for entry in locked.values())
