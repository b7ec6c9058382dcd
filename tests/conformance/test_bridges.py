"""Across the bridges: the suite of one era, against a server that speaks only the other.

What the suite still complains of cannot be otherwise, and docs/decisions/0019 says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.conformance.stage import Eras, Stage
from tests.conformance.suite import Revision, score_server


@dataclass(frozen=True, kw_only=True)
class Expected:
    """`complaints` as `scenario: check`."""

    upstream: Eras
    passed: int
    complaints: frozenset[str] = frozenset()


EXPECTED: Final[dict[Revision, Expected]] = {
    # Four checks of a native server's 84 are about answers that come as a stream; a modern server's come as JSON.
    "2025-11-25": Expected(upstream="modern", passed=80),
}


@pytest.mark.acceptance("P1")
@pytest.mark.parametrize("revision", EXPECTED)
async def test_the_suite_is_content_across_the_bridge_but_for_what_cannot_be(
    stage: Stage, revision: Revision, tmp_path: Path
) -> None:
    expected = EXPECTED[revision]
    script = stage.upload("everything", ERAS=expected.upstream)
    url = stage.publish(f"only-{expected.upstream}", script, expected.upstream)
    score = await score_server(url, revision, tmp_path / "results")
    named = {": ".join(complaint.split(": ")[:2]) for complaint in score.complaints}
    assert named == expected.complaints, "\n".join(score.complaints)
    assert score.passed == expected.passed, score.scenarios
