"""konv doctor: everything that a bug report should say about this machine and this installation."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from konv.cli.examples import examples

EPILOG = examples("konv doctor", "konv doctor --json", "konv doctor --no-time")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EPILOG)(doctor)


def doctor(
    time: Annotated[bool, typer.Option(help="Measure peak and bandwidth.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Check the installation: what a bug report needs. Exit code 1 if the self-test fails.

    Versions, processor, threads, cache, settings; one small convolution of each kind compared with
    the reference; the measured peak and bandwidth of this machine.
    """
    from konv.analyze.doctor import report
    from konv.cli.page import Page, print_json, progress

    with progress("measuring"):
        found = report(time)
    if json:
        print_json(found)
    else:
        page = Page()
        for name, part in found.items():
            page.heading(name.replace("_", "-").capitalize())
            page.pairs(_rows(name, part))
    if not sound(found):
        raise typer.Exit(1)


def sound(found: dict[str, Any]) -> bool:
    """Say whether every part could be found out and the self-test has passed."""
    tests = found["self_test"].values()
    return all("error" not in part for part in found.values()) and set(tests) == {"ok"}


def _rows(name: str, part: dict[str, Any]) -> list[tuple[str, object]]:
    if "error" in part:
        return [("error", part["error"])]
    if name == "self_test" and set(part.values()) == {"ok"}:
        return [("ok", ", ".join(part))]
    if name == "settings" and not part:
        return [("none", "no variable that begins with KONV_, OMP_ or the like")]
    return [(key.replace("_", " "), _written(key, value)) for key, value in part.items()]


def _written(key: str, value: Any) -> str:
    """Write a value in words and units, by its key."""
    from konv.analyze.units import size

    if key in ("bytes", "limit"):
        return size(value)
    if key == "peak_flops":
        return f"{value / 1e9:.0f} GFLOP/s"
    if key == "bandwidth":
        return f"{value / 1e9:.1f} GB/s"
    if isinstance(value, dict):
        return ", ".join(f"{name} {content}" for name, content in value.items())
    if isinstance(value, list):
        return " ".join(feature for feature in value if not str(feature).startswith("-"))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return str(value)
