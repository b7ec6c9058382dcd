"""The protocol's own conformance suite, npm `@modelcontextprotocol/conformance`, run as its users run it.

What counts are the checks it wrote down, one file per scenario; its exit code and its words are not asked. It runs the scenarios
a revision requires, frozen at its release, and some that are newer; of those the `tasks-*` extension is left out, which nothing here
speaks. Sources: the package's README; the revision sets `2025-11-25` and `2026-07-28`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from tests.parts import ROOT
from tests.toolchain import NODE, NODE_PACKAGES, ensure_packages, environment

Revision = Literal["2025-11-25", "2026-07-28"]

PROGRAM: Final = NODE_PACKAGES / "node_modules/@modelcontextprotocol/conformance/dist/index.js"
RUN_TIMEOUT_S: Final = 110.0
_FOLDER: Final = re.compile(r"(?:server-)?(?P<scenario>.+)-\d{4}-\d\d-\d\dT[\dZ-]+")


@dataclass(frozen=True, kw_only=True)
class Score:
    """`passed` counts checks. `complaints` are the checks that failed or warned, as `scenario: check: why`; `scenarios` counts
    the passed checks of each."""

    passed: int
    complaints: tuple[str, ...]
    scenarios: Mapping[str, int]


def assert_score(score: Score, passed: int) -> None:
    """Nothing failed and nothing warned, and exactly so many checks passed."""
    assert not score.complaints, "\n".join(score.complaints)
    assert score.passed == passed, score.scenarios


async def score_server(url: str, revision: Revision, results: Path) -> Score:
    """Runs the server scenarios of a revision's set against `url`; `results` is a folder that does not exist yet."""
    await _run("server", "--url", url, "--requirements", revision, "--output-dir", str(results))
    return read_score(results)


async def score_client(
    command: str, scenario: str, revision: Revision, results: Path, **variables: str
) -> Score:
    """Runs one client scenario: `command` gets the URL of the suite's server as its last argument, and `variables` to read."""
    asked = ("--command", command, "--scenario", scenario, "--spec-version", revision)
    await _run("client", *asked, "--output-dir", str(results), **variables)
    return read_score(results)


def read_score(results: Path) -> Score:
    """Raises AssertionError where the suite wrote nothing, or a status that we do not know."""
    complaints: list[str] = []
    scenarios: Counter[str] = Counter()
    for path in sorted(results.glob("**/checks.json")):
        found = _FOLDER.fullmatch(path.parent.name)
        assert found, f"not a scenario's folder: {path.parent.name}"
        scenario = found["scenario"]
        if scenario.startswith("tasks-"):
            continue
        checks: list[dict[str, Any]] = json.loads(path.read_text())
        for check in checks:
            assert check["status"] in {"SUCCESS", "FAILURE", "WARNING", "SKIPPED", "INFO"}, check
            scenarios[scenario] += check["status"] == "SUCCESS"
            if check["status"] in {"FAILURE", "WARNING"}:
                complaints.append(
                    f"{scenario}: {check['id']}: {check.get('errorMessage') or check['description']}"
                )
    assert scenarios, f"the suite wrote no checks to {results}"
    return Score(passed=scenarios.total(), complaints=tuple(complaints), scenarios=dict(scenarios))


async def _run(*arguments: str, **variables: str) -> None:
    await asyncio.to_thread(ensure_packages, NODE_PACKAGES)
    process = await asyncio.create_subprocess_exec(
        str(NODE),
        str(PROGRAM),
        *arguments,
        env=environment(**variables),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(RUN_TIMEOUT_S):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
