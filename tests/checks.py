"""What CI runs, in CI's order: `python -m tests.checks all`, or `test` with arguments for pytest.

A check that fails does not keep the ones after it from running, except that the tests need code that at least imports.
Where there is no Chromium the tests marked `browser` are left out, where there is no nginx those marked `nginx`, and the last lines
say so. In CI (the variable `CI` is set) nothing is left out: without one of them the run fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from tests.chromium import find_chromium
from tests.nginx import find_nginx

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
#: Any secret will do: nothing here talks to a database.
CHECKS: dict[str, Sequence[str]] = {
    "ruff: rules": (str(BIN / "ruff"), "check", "."),
    "ruff: format": (str(BIN / "ruff"), "format", "--check", "."),
    "mypy": (str(BIN / "mypy"), "."),
    "import-linter": (str(BIN / "lint-imports"), "--no-logo"),
    "migrations": (sys.executable, "-W", "ignore", "-m", "tests.migrations"),
}
#: Programs of the machine's own that tests need: their mark, their name, where to look, and the variable that names one.
PROGRAMS: Sequence[tuple[str, str, Callable[[], str | None], str]] = (
    ("browser", "Chromium", find_chromium, "SMCP_CHROMIUM"),
    ("nginx", "nginx", find_nginx, "SMCP_NGINX"),
)
console = Console(highlight=False, soft_wrap=True)


def test(arguments: Sequence[str]) -> int:
    """pytest's exit code; 1 in CI when a program is missing, whatever pytest says."""
    missing = [program for program in PROGRAMS if not program[2]()]
    is_ci = bool(os.environ.get("CI"))
    left_out = " and ".join(f"not {mark}" for mark, *_ in missing)
    selection = () if is_ci or not missing else ("-m", left_out)
    code = subprocess.call((sys.executable, "-m", "pytest", *selection, *arguments), cwd=ROOT)
    for mark, name, _, variable in missing:
        if is_ci:
            console.print(
                f"✗ There is no {name} on this machine, and in CI no test may be left out "
                f"(install one, or set {variable} to its program).",
                style="bold red",
            )
        else:
            console.print(
                f"There is no {name} on this machine, so the {mark} tests were left out "
                f"(install one, or set {variable} to its program).",
                style="yellow",
            )
    return code or 1 if missing and is_ci else code


def check() -> int:
    """0 when everything passed."""
    failed = []
    for title, command in CHECKS.items():
        console.rule(title, align="left")
        started_at = time.monotonic()
        if subprocess.call(command, cwd=ROOT) != 0:
            failed.append(title)
        console.print(f"{time.monotonic() - started_at:.1f} s", style="dim")
    console.rule("tests", align="left")
    if test([]) != 0:
        failed.append("tests")
    if failed:
        console.print(f"✗ {', '.join(failed)}", style="bold red")
        return 1
    console.print("✓ everything passed", style="bold green")
    return 0


def main(arguments: Sequence[str]) -> int:
    os.environ.setdefault("PYTHONWARNINGS", "default")
    if arguments[:1] == ["test"]:
        return test(arguments[1:])
    if list(arguments) == ["all"]:
        return check()
    console.print("usage: python -m tests.checks all | test [pytest's arguments]")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
