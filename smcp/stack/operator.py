"""The operator every start keeps, whose password is set again each time: see docs/operations.md, Operators."""

from __future__ import annotations

from typing import Final

EMAIL: Final = "operator@smcp.localhost"
