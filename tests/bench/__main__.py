"""`python -m tests.bench [name …]`: every benchmark in turn, one table at the end, the same in var/bench.json."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import PREFIX, Figure

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "var" / "bench.json"
console = Console(highlight=False, soft_wrap=True)


def run(name: str) -> tuple[list[Figure], int]:
    """The figures one benchmark reported, and its exit code."""
    figures: list[Figure] = []
    command = (sys.executable, "-m", f"tests.bench.{name}")
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(PREFIX):
                figures.append(json.loads(line.removeprefix(PREFIX)))
            else:
                console.print(line.rstrip("\n"), markup=False)
    return figures, process.returncode


def main(wanted: list[str]) -> int:
    """1 when a benchmark broke or missed a goal."""
    known = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        console.print(f"There is no benchmark {', '.join(unknown)}; there are: {', '.join(known)}.")
        return 2
    table = Table("benchmark", "figure", "measured", "goal", "")
    results: dict[str, list[Figure]] = {}
    broken = []
    for name in wanted or known:
        console.rule(name, align="left")
        results[name], code = run(name)
        if code != 0:
            broken.append(name)
        for each in results[name]:
            goal = f"{each['goal']:g} {each['unit']}" if "goal" in each else ""
            mark = {True: "[green]✓[/]", False: "[red]✗[/]", None: ""}[each.get("is_met")]
            table.add_row(name, each["name"], f"{each['value']:g} {each['unit']}", goal, mark)
    console.print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()}
    report = {
        **_by_peer(results.get("proxy", [])),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "figures": results,
    }
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    for name in broken:
        console.print(f"✗ {name} broke", style="bold red")
    missed = any(each.get("is_met") is False for figures in results.values() for each in figures)
    return 1 if broken or missed else 0


def _by_peer(figures: list[Figure]) -> dict[str, dict[str, float]]:
    """`proxy.<peer>.<era>.<answer>.c<connections>` → its figures by name."""
    found: dict[str, dict[str, float]] = {}
    for each in figures:
        name, _, what = each["name"].rpartition(".")
        if re.search(r"\.c\d+$", name):
            found.setdefault(f"proxy.{name}", {})[what] = each["value"]
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
