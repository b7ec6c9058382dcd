"""Ids: ULIDs as 26 lowercase characters. They sort by time, fit DNS labels, and never say anything else."""

from __future__ import annotations

import re
from typing import Any

from django.db import models
from ulid import ULID

ULID_RE = re.compile(r"[0-7][0-9a-hjkmnp-tv-z]{25}")


def new_id() -> str:
    """A fresh ULID, lowercase."""
    return str(ULID()).lower()


def is_id(text: str) -> bool:
    return ULID_RE.fullmatch(text) is not None


class UlidField(models.CharField):
    """A ULID column; as primary key it fills itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["max_length"] = 26
        if kwargs.get("primary_key"):
            kwargs.setdefault("default", new_id)
            kwargs.setdefault("editable", False)
        super().__init__(*args, **kwargs)
