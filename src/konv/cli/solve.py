"""konv solve: the output-size formula backwards, for whatever number is left out."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from konv.cli.examples import examples

EPILOG = examples(
    "konv solve --out 28 --size 56 --kernel 3 --stride 2",
    "konv solve --out 56 --size 56 --kernel 3 --dilation 4 --padding '?'",
    "konv solve --out 28 --kernel 3 --stride 2 --padding 1",
    "konv solve --size 56 --kernel 3 --stride 2 --padding 1",
    "konv solve --transposed --out 64 --size 32 --kernel 4 --stride 2 --padding '?'",
)
UNKNOWN = "?"
DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}
ASSUMED = ("size", "kernel", "padding")  # the unknown, if none is marked: the first left out
SHOWN = 12  # values listed one by one

Number = Annotated[str | None, typer.Option(metavar="N|?", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EPILOG)(solve)


def solve(
    out: Number = None,
    size: Number = None,
    kernel: Number = None,
    stride: Number = None,
    padding: Number = None,
    dilation: Number = None,
    output_padding: Number = None,
    transposed: Annotated[bool, typer.Option("--transposed", help="Of a transposed one.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Find the number that gives an axis the size you want.

    One of out, size, kernel, stride, padding, dilation and output-padding is unknown: write '?' for
    it, or leave it out. Left out together with others it is the first of out, size, kernel,
    padding; the rest then have their defaults, stride 1, padding 0, dilation 1, output-padding 0.
    """
    given = {
        "out": out, "size": size, "kernel": kernel, "stride": stride,
        "padding": padding, "dilation": dilation, "output_padding": output_padding,
    }  # fmt: skip
    unknown, known = _problem(given)
    values = _values(unknown, known, transposed)
    if json:
        from konv.cli.page import print_json

        listed = list(values[:1000])
        print_json({
            "unknown": unknown, "known": known, "transposed": transposed,
            "values": listed, "least": values[0], "greatest": values[-1],
        })  # fmt: skip
        return
    _print(unknown, known, transposed, values)


def _problem(given: dict[str, str | None]) -> tuple[str, dict[str, int]]:
    """Return which number is unknown, and the others, those left out by their defaults."""
    from konv.errors import ProblemError

    marked = [name for name, value in given.items() if value == UNKNOWN]
    left_out = [name for name in ("out", *ASSUMED) if given[name] is None]
    if len(marked) > 1:
        raise ProblemError(f"{' and '.join(marked)} are all {UNKNOWN}. Mark one of them.")
    if not marked and not left_out:
        raise ProblemError(
            f"no number is unknown. Write {UNKNOWN} for one of {', '.join(given)}, or leave it out."
        )
    unknown = (marked or left_out)[0]
    known = {}
    for name, value in given.items():
        if name == unknown:
            continue
        if value is None and name not in DEFAULTS:
            raise ProblemError(
                f"{unknown} is asked for, and {name} is not given. Give --{name} N as well."
            )
        known[name] = DEFAULTS[name] if value is None else _integer(name, value)
    return unknown, known


def _integer(name: str, value: str) -> int:
    from konv.errors import ProblemError

    try:
        return int(value)
    except ValueError:
        raise ProblemError(
            f"{name}={value!r} is no whole number. Write a number, or {UNKNOWN} for the unknown."
        ) from None


def _values(unknown: str, known: dict[str, int], transposed: bool) -> range:
    """Return all values of the unknown, least first."""
    if unknown == "out":
        out = _axis(known, transposed).out
        return range(out, out + 1)
    from konv.geometry.solve import solve as solved

    numbers: dict[str, Any] = known | {unknown: None}
    return solved(**numbers, transposed=transposed)


def _axis(known: dict[str, int], transposed: bool) -> Any:
    from konv.geometry.terms import Terms

    terms = Terms(
        known["kernel"], known["stride"], known["dilation"], known["padding"], known["padding"],
        known["output_padding"],
    )  # fmt: skip
    return terms.axis(known["size"], transposed)


def _print(unknown: str, known: dict[str, int], transposed: bool, values: range) -> None:
    """Print the values, and the formula with the first of them put in."""
    from konv.analyze.concepts import CONCEPTS
    from konv.cli.page import Page

    page, first = Page(), values[0]
    numbers = known | {unknown: first}
    kind = "transposed" if transposed else "dilated" if numbers["dilation"] > 1 else "ordinary"
    page.heading(
        f"{unknown.replace('_', '-')} = {_listed(values)}", f"{kind} convolution, one axis"
    )
    page.pairs([
        ("formula", CONCEPTS[kind].symbols.size),
        ("worked out", _worked(numbers, transposed)),
    ])  # fmt: skip


def _worked(numbers: dict[str, int], transposed: bool) -> str:
    from konv.geometry import Conv

    names = ("kernel", "stride", "padding", "dilation", "output_padding")
    arguments: dict[str, Any] = {name: numbers[name] for name in names}
    return Conv.of((1, 1, numbers["size"]), 1, **arguments, transposed=transposed).formula()


def _listed(values: range) -> str:
    """Write the values: one by one where they are few, else their ends."""
    if len(values) > SHOWN:
        return f"{values[0]} to {values[-1]:,}"
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last
