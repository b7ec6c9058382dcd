"""The machine's own Chromium: Debian's package, driven by Playwright. Playwright's own download is never used."""

from __future__ import annotations

import os
import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    """Path of the program: SMCP_CHROMIUM, else the first on the PATH; None where there is none."""
    return os.environ.get("SMCP_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
