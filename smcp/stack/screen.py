"""What the person at the terminal sees: the parts as they start, then everybody's log lines, and who is who by colour.

Safe to call from any thread. On a pipe or in CI the same lines come without colours and without moving anything.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from smcp.stack.lines import as_prose

COLOURS = {
    "postgres": "blue",
    "redis": "red",
    "migrate": "blue",
    "edge": "yellow",
    "api": "green",
    "console": "magenta",
    "worker": "cyan",
    "checker": "cyan",
    "monitor": "bright_cyan",
    "beat": "bright_black",
    "gateway": "bright_green",
    "demo": "bright_blue",
}
NAME_WIDTH = 8
#: What a log line could do to a terminal: everything below space but the tab, DEL, and the C1 controls.
CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f]")
#: Colours a process puts into its own lines.
ANSI = re.compile("\x1b\\[[0-9;]*m")


class Screen:
    """`start_part` and `end_part` bracket what takes time; `log` is a LineSink."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.parts: dict[str, tuple[float, float | None]] = {}

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Shows what is starting, below the log, while the block runs. What remains is a line per part."""
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, refresh_per_second=10, transient=True, get_renderable=self._progress):
            yield

    def start_part(self, name: str) -> None:
        self.parts[name] = (time.monotonic(), None)

    def end_part(self, name: str) -> None:
        started_at, _ = self.parts[name]
        took_s = time.monotonic() - started_at
        self.parts[name] = (started_at, took_s)
        self.console.print(
            Text.assemble((f"  ✓ {name:<{NAME_WIDTH}}", COLOURS.get(name, "white")), f"  {took_s:.1f} s")
        )

    def log(self, name: str, line: str) -> None:
        clean = CONTROL.sub("", ANSI.sub("", as_prose(line)))
        if clean.strip():
            self.console.print(Text.assemble((f"{name:>{NAME_WIDTH}} │ ", COLOURS.get(name, "white")), clean))

    def say(self, *paragraphs: RenderableType) -> None:
        for paragraph in paragraphs:
            self.console.print(paragraph)

    def welcome(self, facts: dict[str, str], how_to_connect: list[tuple[str, str]], took_s: float) -> None:
        """Where everything is. `how_to_connect`: a heading and what to paste."""
        table = Table.grid(padding=(0, 2))
        for name, value in facts.items():
            table.add_row(Text(name, style="bold"), Text(value, style="cyan"))
        self.say(
            "",
            Panel(table, title=f"SMCP is ready ({took_s:.1f} s)", title_align="left", border_style="green"),
        )
        for heading, snippet in how_to_connect:
            self.say("", Text(heading, style="bold"), Text(snippet, style="cyan"))
        self.say("", Text("Ctrl-C stops everything; the data stays.", style="dim"), "")

    def complain(self, sentence: str) -> None:
        self.say("", Text.assemble(("✗ ", "bold red"), (sentence, "bold")))

    def _progress(self) -> RenderableType:
        rows: list[RenderableType] = []
        for name, (started_at, took_s) in list(self.parts.items()):
            if took_s is None:
                text = Text(
                    f"{name}  {time.monotonic() - started_at:.0f} s", style=COLOURS.get(name, "white")
                )
                rows.append(Spinner("dots", text))
        return Group(*rows)
