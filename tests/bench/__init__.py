"""Figures worth keeping an eye on. `make bench` runs every module of this package in turn, each in a process of its own.

A module measures when it is run (`python -m tests.bench.<name>`) and reports with `figure`, once per figure. Whatever else
it prints goes to the screen as it is.
"""

from __future__ import annotations

import json
import sys
from typing import Literal, NotRequired, TypedDict

PREFIX = "figure "


class Figure(TypedDict):
    """One measured number, and what it should be at most or at least."""

    name: str
    value: float
    unit: str
    goal: NotRequired[float]
    is_met: NotRequired[bool]


def figure(
    name: str,
    value: float,
    unit: str,
    *,
    goal: float | None = None,
    better: Literal["lower", "higher"] = "lower",
) -> None:
    """Reports one figure. `goal` is the most it may be, or with `better="higher"` the least."""
    entry = Figure(name=name, value=round(value, 4), unit=unit)
    if goal is not None:
        entry["goal"] = goal
        entry["is_met"] = value <= goal if better == "lower" else value >= goal
    sys.stdout.write(PREFIX + json.dumps(entry) + "\n")
    sys.stdout.flush()
