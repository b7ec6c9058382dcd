"""The suite's client scenarios: a well-behaved client must look well-behaved to its server with the gateway in between.

What the suite's server judges has come from the gateway: headers it built, ids and states it passed, streams it took up again. Left out
are the `auth/*` scenarios: the gateway is its own resource server, and a hosted Worker never asks it to authorize. Of `http-standard-headers` two
checks cannot be: they ask for headers of 2026-07-28 on `initialize`, which that revision does not have.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conformance.stage import Stage
from tests.conformance.suite import Revision, assert_score, score_client

PASSED: dict[tuple[str, Revision], int] = {
    ("initialize", "2025-11-25"): 1,
    ("tools_call", "2025-11-25"): 2,
    ("elicitation-sep1034-client-defaults", "2025-11-25"): 5,
    ("sse-retry", "2025-11-25"): 3,
    ("tools_call", "2026-07-28"): 2,
    ("request-metadata", "2026-07-28"): 8,
    ("sep-2322-client-request-state", "2026-07-28"): 5,
    ("http-standard-headers", "2026-07-28"): 9,
    ("http-custom-headers", "2026-07-28"): 18,
    ("http-invalid-tool-headers", "2026-07-28"): 12,
    ("json-schema-ref-no-deref", "2026-07-28"): 1,
    ("json-schema-2020-12-preservation", "2026-07-28"): 9,
}


@pytest.mark.parametrize(("scenario", "revision"), PASSED)
async def test_a_well_behaved_client_stays_one_behind_the_gateway(
    stage: Stage, scenario: str, revision: Revision, tmp_path: Path
) -> None:
    score = await score_client(
        f"{sys.executable} -m tests.conformance.adapter",
        scenario,
        revision,
        tmp_path / "results",
        ADAPTER_REDIS=stage.redis_url,
        ADAPTER_GATEWAY=stage.gateway.url,
    )
    assert_score(score, PASSED[scenario, revision])
