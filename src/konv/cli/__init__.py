"""The command `konv`. One file a command; this one joins them.

What a command needs is imported when it runs, so that `konv --help` comes at once and no command
loads PyTorch or matplotlib without using it.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from konv.cli import bench, cache, compare, doctor, explain, solve, tune
from konv.errors import KonvError


class Commands(typer.core.TyperGroup):
    """Errors end a command as one message on standard error and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KonvError as error:
            typer.echo(f"konv: {error}", err=True)
            raise typer.Exit(2) from None
        except MemoryError:
            typer.echo("konv: out of memory. Use smaller sizes.", err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=Commands,
    help="Convolution made fast, and explained.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # its boxes take half a second to import
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"konv {sys.modules['konv'].__version__}")
        raise typer.Exit


@app.callback()
def _konv(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit.")
    ] = False,
) -> None:
    pass


for command in (compare, explain, solve, bench, tune, cache, doctor):
    command.register(app)


def main() -> None:
    """Run the command line."""
    app(prog_name="konv")
