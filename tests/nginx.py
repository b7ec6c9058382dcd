"""The machine's own nginx: Debian's package, which puts it where only root looks."""

from __future__ import annotations

import os
import shutil


def find_nginx() -> str | None:
    """Path of the program: SMCP_NGINX, else the first on the PATH or where Debian puts it; None where there is none."""
    named = os.environ.get("SMCP_NGINX")
    if named:
        return shutil.which(named)
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
