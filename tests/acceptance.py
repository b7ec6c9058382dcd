"""`make acceptance`: the rows of docs/acceptance.md that no test proves. Reads the tests' source, runs nothing."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

TESTS = Path(__file__).resolve().parent
ROWS = TESTS.parent / "docs" / "acceptance.md"
ROW = re.compile(r"^\| ((?:S\d+\.|P)\d+) \| (.+?) \| (.+?) \|$", re.MULTILINE)


def list_rows() -> dict[str, tuple[str, str]]:
    """Row id → what must work, and where."""
    return {row: (what, where) for row, what, where in ROW.findall(ROWS.read_text())}


def list_proofs() -> dict[str, list[str]]:
    """Row id → the tests marked with it, as `path::name`."""
    proofs: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for name, row in _marks(ast.parse(path.read_text(), str(path))):
            proofs.setdefault(row, []).append(f"{path.relative_to(TESTS.parent)}::{name}")
    return proofs


def _marks(module: ast.Module) -> Iterator[tuple[str, str]]:
    """Every (test, row): decorators of functions and classes, and the module's `pytestmark`."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            marked, name = node.decorator_list, node.name
        elif isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets
        ):
            marked, name = [node.value], "*"
        else:
            continue
        for expression in marked:
            for call in ast.walk(expression):
                if (
                    isinstance(call, ast.Call)
                    and isinstance(call.func, ast.Attribute)
                    and call.func.attr == "acceptance"
                ):
                    for argument in call.args:
                        if isinstance(argument, ast.Constant):
                            yield name, str(argument.value)


def main() -> int:
    """0 unless a test claims a row that does not exist."""
    console = Console(highlight=False, soft_wrap=True)
    rows, proofs = list_rows(), list_proofs()
    table = Table("row", "what", "where")
    for row, (what, where) in rows.items():
        if row not in proofs:
            table.add_row(row, what, where)
    console.print(table)
    console.print(f"{len(rows.keys() & proofs.keys())} of {len(rows)} rows are proven by a test.")
    unknown = sorted(proofs.keys() - rows.keys())
    for row in unknown:
        console.print(f"✗ {row} is no row of docs/acceptance.md: {', '.join(proofs[row])}", style="red")
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
