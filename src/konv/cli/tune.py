"""konv tune: measure every way to compute a layer on this machine, and remember the fastest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from konv.cli.examples import examples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from konv.bench.tuning import Decision, Tuned
    from konv.plan import Plan
    from konv.runtime.choose import Precision

EPILOG = examples(
    "konv tune 'conv2d 1x64x56x56 o64 k3 p1'",
    "konv tune 'conv2d 1x16x14x14 o16 k1' 'conv1d 1x8x99 o8 k5' --budget 0.1",
    "konv tune problems/resnet50.txt --layout contiguous",
    "konv tune --forget",
)
LAYOUTS = ("contiguous", "channels-last")
HEAD = ("layer", "model's choice", "ms", "used from now", "ms", "gain")
WIDTHS = (23, 16, 8, 16, 8, 7)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EPILOG)(tune)


def tune(
    problems: Annotated[
        list[str] | None,
        typer.Argument(
            help="Convolutions in one line of text each, or files of such lines.",
            show_default=False,
        ),
    ] = None,
    layout: Annotated[
        str, typer.Option(help="Of input and output: contiguous, channels-last or both.")
    ] = "both",
    budget: Annotated[
        float, typer.Option(help="Seconds for a layer and layout; noise may take it four times.")
    ] = 1.0,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Forget all that was found; first, if layers are named."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Measure every plan of a layer here, and use the fastest from now on.

    konv chooses by a model, without measuring. This measures, checks every answer, and remembers
    what beats the model by 5 % and more, for this machine and this version of konv, beside the
    compiled kernels. Other plans add up in another order, so results may change in their last bits.
    KONV_TUNED=0 leaves aside what was found. Use an idle machine.
    """
    from konv.errors import ProblemError

    if layout not in (*LAYOUTS, "both"):
        raise ProblemError(f"layout={layout!r} is unknown. Use {', '.join(LAYOUTS)} or both.")
    if forget:
        _forget(aloud=not json)
    if problems or not forget:
        layouts = LAYOUTS if layout == "both" else (layout,)
        found = _measured(problems or [], layouts, budget, json)
        if any(one.wrong for one in found):
            raise typer.Exit(1)


def _forget(aloud: bool) -> None:
    from konv.runtime import tuned

    count = tuned.forget_all()
    if aloud:
        typer.echo(f"{count} {'choice' if count == 1 else 'choices'} forgotten.")


def _measured(
    problems: list[str], layouts: tuple[str, ...], budget: float, json: bool
) -> list[Tuned]:
    """Measure, and print each layer as soon as it is there."""
    from konv.bench.tuning import tune as measure
    from konv.cli.page import print_json

    if json:
        found = measure(problems, layouts=layouts, seconds=budget)
        print_json([_as_json(one) for one in found])
        return found
    shown: list[tuple[str, ...]] = []

    def heard(one: Tuned) -> None:
        if not shown:
            typer.echo(_line(HEAD))
        for line in _lines(one, shown[-1] if shown else ()):
            typer.echo(line)
        shown.append(one.names)

    found = measure(problems, layouts=layouts, seconds=budget, heard=heard)
    for line in _closing(found):
        typer.echo(line)
    return found


def _lines(one: Tuned, before: tuple[str, ...]) -> Iterator[str]:
    if one.names != before:
        others = len(one.names) - 1
        yield one.names[0] + (f", and {others} more that choose alike" if others else "")
    if one.refused:
        yield f"  {one.layout}: {one.refused}"
    for plan, why in one.wrong.items():
        yield f"  WRONG: {plan}: {why}"
    for mode, decision in _told(one):
        label = f"  {one.layout}" + (", exact" if mode == "exact" else "")
        kept = decision.changed
        yield _line((
            label, _short(decision.model), _ms(decision.model_seconds),
            _short(decision.plan) if kept else "as chosen",
            _ms(decision.seconds) if kept else "",
            f"{decision.gain:.2f} x" if kept else "",
        )) + (" *" if one.noise else "")  # fmt: skip


def _told(one: Tuned) -> list[tuple[Precision, Decision]]:
    """The decisions, that for exact results only where it is another."""
    told = list(one.decisions.items())
    return told[:1] if len({decision for _, decision in told}) == 1 else told


def _line(cells: tuple[str, ...]) -> str:
    left = {0, 1, 3}
    padded = (
        cell.ljust(width) if i in left else cell.rjust(width - 2) + "  "
        for i, (cell, width) in enumerate(zip(cells, WIDTHS, strict=True))
    )
    return "".join(padded).rstrip()


def _short(plan: Plan) -> str:
    return f"{plan.algorithm} {plan.pixels}x{plan.vectors}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds >= 1e-4 else f"{1e3 * seconds:.4f}"


def _closing(found: list[Tuned]) -> Iterator[str]:
    from konv.runtime import store, tuned

    told = [decision for one in found for _, decision in _told(one)]
    changed = sum(decision.changed for decision in told)
    yield ""
    yield f"{changed} of {len(told)} choices are other than the model's."
    if any(one.noise for one in found):
        yield "* Measured while the machine was not quiet."
    if changed:
        yield "Their results may differ in the last bits from those before."
    if changed and all(one.stored for one in found if one.decisions):
        yield f"Kept in {store.folder()}; konv tune --forget undoes it."
    elif changed:
        yield "They could not be kept: the cache is off, full or not writable (konv cache show)."
    if tuned.ignored():
        yield "KONV_TUNED is off, so they are not used."


def _as_json(one: Tuned) -> dict[str, Any]:
    """Lines, layout, seconds by plan, and for both precisions what is used from now on."""
    from konv.bench.tuning import GAIN

    return {
        "layers": list(one.names),
        "layout": one.layout,
        "seconds": [{"plan": repr(plan), "seconds": s} for plan, s in one.seconds.items()],
        "threshold": GAIN,
        "decisions": {
            mode: {
                "model": repr(decision.model), "model_seconds": decision.model_seconds,
                "plan": repr(decision.plan), "seconds": decision.seconds,
                "changed": decision.changed, "gain": decision.gain,
            }
            for mode, decision in one.decisions.items()
        },
        "wrong": {repr(plan): why for plan, why in one.wrong.items()},
        "noise": list(one.noise),
        "refused": one.refused or None,
        "stored": one.stored,
    }  # fmt: skip
