"""Across the bridges: the suite of one era, against a server that speaks only the other.

What the suite still complains of cannot be otherwise, and docs/decisions/0019 says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from hosting.dataplane.contract import Dispatch
from tests.clients import CLIENTS, ClientName
from tests.conformance.stage import Eras, Stage, node_server
from tests.conformance.suite import Revision, score_server
from tests.conformance.test_clients import REFERENCE, SERVERS, assert_all_is_there
from tests.parts import free_port


@dataclass(frozen=True, kw_only=True)
class Expected:
    """`complaints` as `scenario: check`."""

    upstream: Eras
    passed: int
    complaints: frozenset[str] = frozenset()


EXPECTED: Final[dict[Revision, Expected]] = {
    # Four checks of a native server's 84 are about answers that come as a stream; a modern server's come as JSON.
    "2025-11-25": Expected(upstream="modern", passed=80),
    "2026-07-28": Expected(
        upstream="legacy",
        passed=149,
        complaints=frozenset(
            {
                "input-required-result-basic-elicitation: sep-2322-elicitation-incomplete",
                "input-required-result-ignore-extra-params: sep-2322-ignore-unexpected-params",
            }
        ),
    ),
}


@pytest.mark.acceptance("P1")
@pytest.mark.parametrize("revision", EXPECTED)
async def test_the_suite_is_content_across_the_bridge_but_for_what_cannot_be(
    stage: Stage, revision: Revision, tmp_path: Path
) -> None:
    expected = EXPECTED[revision]
    script = stage.upload("everything", ERAS=expected.upstream)
    url = stage.publish(f"only-{expected.upstream}", script, expected.upstream, modern_clients="bridge")
    score = await score_server(url, revision, tmp_path / "results")
    named = {": ".join(complaint.split(": ")[:2]) for complaint in score.complaints}
    assert named == expected.complaints, "\n".join(score.complaints)
    assert score.passed == expected.passed, score.scenarios


@pytest.fixture(scope="module")
def key(stage: Stage) -> str:
    return stage.key()


@pytest.fixture(scope="module")
def endpoints(stage: Stage) -> Iterator[dict[str, str]]:
    """The servers of the matrix that speak only legacy revisions, in Environments that carry modern clients over."""
    more: dict[str, Any] = {"access": ("api_key",), "modern_clients": "bridge", "has_sessions": True}
    agent = stage.publish("bridged-agent", stage.upload("agent"), "legacy", **more)
    port = free_port()
    with node_server(REFERENCE, "streamableHttp", port=port):
        here = Dispatch(url=f"http://127.0.0.1:{port}", audience="nobody")
        reference = stage.publish("bridged-reference", "none", "legacy", dispatch=here, **more)
        yield {"agent": agent, "reference": reference}


@pytest.mark.acceptance("P1")
@pytest.mark.parametrize("client", [client for client in CLIENTS if client.endswith("-modern")])
@pytest.mark.parametrize("name", ["agent", "reference"])
async def test_a_modern_client_gets_all_of_a_legacy_server(
    endpoints: dict[str, str], key: str, name: str, client: ClientName
) -> None:
    await assert_all_is_there(endpoints[name], key, SERVERS[name], client)
