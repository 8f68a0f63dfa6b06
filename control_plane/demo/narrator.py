"""Tells the story on the screen: what happens, what it is measured by, how it ended. Data goes to stdout at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table


class Narrator:
    """Writes lines with the time since the story began."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._started = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the story began."""
        return time.monotonic() - self._started

    def chapter(self, title: str) -> None:
        """Begin a chapter."""
        self._console.print()
        self._console.rule(f"[bold]{escape(title)}", align="left")

    def say(self, text: str) -> None:
        """Tell one thing that happened."""
        self._console.print(f"[dim]{self.elapsed_s:6.1f} s[/dim]  {escape(text)}")

    def evidence(self, text: str) -> None:
        """Show what something was judged by."""
        for line in text.strip().splitlines():
            self._console.print(f"          [cyan]{escape(line)}[/cyan]")

    def verdict(self, claim: str, *, is_ok: bool) -> None:
        """Say whether a claim held."""
        mark = "[green]holds[/green]" if is_ok else "[bold red]FAILS[/bold red]"
        self._console.print(f"          {mark}  {escape(claim)}")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show a table."""
        shown = Table(title=title, title_justify="left", header_style="bold")
        for column in columns:
            shown.add_column(column)
        for row in rows:
            shown.add_row(*(escape(cell) for cell in row))
        self._console.print()
        self._console.print(shown)
