"""`manage.py makemigrations --check` against a real, empty Postgres of its own: Django wants to compare with a database."""

from __future__ import annotations

import subprocess
import sys

from tests import parts as real_parts


def main() -> int:
    """The command's exit code: 1 when a model changed and no migration says so."""
    parts = real_parts.plan_parts()
    try:
        child = real_parts.start_postgres(parts)
        try:
            command = (sys.executable, "manage.py", "makemigrations", "--check", "--dry-run")
            return subprocess.call(command, cwd=real_parts.ROOT, env=parts.environ("owner"))
        finally:
            child.stop()
    finally:
        real_parts.forget_parts(parts)


if __name__ == "__main__":
    sys.exit(main())
