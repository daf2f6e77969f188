"""What commands print: coloured in a terminal, and as wide; plain and 80 columns wide in a pipe."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

PIPED = 80  # columns where there is no terminal


class Page:
    """Headings, labelled lines, tables and code, one after the other on standard output."""

    def __init__(self) -> None:
        from rich.console import Console

        terminal = Console(highlight=False)
        self.rich = terminal.is_terminal
        self.console = terminal if self.rich else Console(file=io.StringIO(), width=PIPED)
        self.begun = False

    def heading(self, title: str, aside: str = "") -> None:
        """Start a section; `aside` stands dimmed behind the title."""
        from rich.text import Text

        text = Text.assemble((title, "bold cyan"), (f"  {aside}" if aside else "", "dim"))
        if self.begun:
            self._print("")
        self.begun = True
        self._print(text)
        if not self.rich:
            self._print("-" * len(text.plain))

    def text(self, *paragraphs: str) -> None:
        """Print paragraphs, wrapped."""
        from rich.padding import Padding
        from rich.text import Text

        for paragraph in paragraphs:
            self._print(Padding(Text(paragraph), (0, 0, 0, 2)))

    def pairs(self, rows: Iterable[tuple[str, object]]) -> None:
        """Print labels and what they label, the latter wrapped in a column of its own."""
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2), pad_edge=True)
        grid.add_column(style="green", no_wrap=True)
        grid.add_column(overflow="fold")
        for label, value in rows:
            grid.add_row(Text(label), Text(str(value)))
        self._print(grid)

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str] | None]) -> None:
        """Print a table, numbers to the right; a row that is None is a line of space."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD if self.rich else None, pad_edge=True, padding=(0, 1))
        for i, title in enumerate(head):
            right: Any = "left" if i == 0 else "right"
            table.add_column(
                Text(title, style="bold"), justify=right, vertical="bottom", no_wrap=i == 0
            )
        for row in rows:
            cells = [Text(cell) for cell in row or ("",)]
            table.add_row(*cells, style="" if row is None or any(row[1:]) else "bold")
        self._print(table)

    def code(self, text: str, language: str = "") -> None:
        """Print code as it is: never wrapped, so that it can be copied."""
        from rich.text import Text

        indented = "\n".join(f"  {line}" for line in text.splitlines())
        if not self.rich:
            typer.echo(self._flushed() + indented)
            return
        self.console.print(
            _highlighted(indented, language) if language else Text(indented), soft_wrap=True
        )

    def _print(self, what: Any) -> None:
        self.console.print(what)
        if not self.rich:
            typer.echo(self._flushed(), nl=False)

    def _flushed(self) -> str:
        """Return what was printed since the last time, without the spaces that fill up lines."""
        file = self.console.file
        assert isinstance(file, io.StringIO)
        text = file.getvalue()
        file.seek(0)
        file.truncate()
        return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def _highlighted(text: str, language: str) -> Any:
    from rich.syntax import Syntax

    syntax = Syntax(text, language, theme="ansi_dark", background_color="default")
    highlighted = syntax.highlight(text)
    highlighted.rstrip()
    return highlighted


def progress(message: str) -> Any:
    """Show a message with a spinner on standard error meanwhile; nothing in a pipe."""
    from rich.console import Console

    errors: Console = Console(stderr=True)
    return errors.status(message)


def print_json(found: object) -> None:
    """Print JSON, keys in the order they were given."""
    import json

    typer.echo(json.dumps(found, indent=2))
