"""konv explain: one convolution, its cost, the kernel konv would run, and how fast that can be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from konv.cli.examples import examples

if TYPE_CHECKING:
    from konv.analyze.explain import Explanation, Road
    from konv.cli.page import Page
    from konv.geometry import Conv

EPILOG = examples(
    "konv explain conv2d 1x64x56x56 o128 k3 s2 p1",
    "konv explain tconv2d 1x512x8x8 o256 k4 s2 p1 --time",
    "konv explain conv2d 1x32x28x28 o32 k3 p1 g32 --json",
    "konv explain conv2d 1x16x9x9 o16 k3 --asm --layout channels-last",
)
BUSY = (
    "Faster than this machine's best: others kept it busy while its peak was measured, or the "
    "caches held what the roofline fetches from memory."
)
LAYOUTS = {"contiguous": "contiguous", "channels-last": "channels_last"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EPILOG)(explain)


def explain(
    line: Annotated[
        list[str],
        typer.Argument(
            help="Kind, batch x channels x sizes, then o outputs, k kernel, s stride, p padding, "
            "d dilation, g groups, r output padding; f64; reflect, replicate, circular.",
            show_default=False,
        ),
    ],
    time: Annotated[bool, typer.Option("--time", help="Measure it, too.")] = False,
    ir: Annotated[bool, typer.Option("--ir", help="Print the kernel's LLVM IR only.")] = False,
    asm: Annotated[bool, typer.Option("--asm", help="Print its assembly only.")] = False,
    layout: Annotated[
        str, typer.Option(help="Of --ir and --asm: contiguous or channels-last.")
    ] = "contiguous",
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Explain one convolution: size, cost, kernel, limits.

    The plan chosen and why the others were not, threads and memory, and what the roofline of this
    machine says: whether arithmetic or memory limits it, and the least time that leaves.
    """
    from konv.geometry import Conv

    conv = Conv.parse(" ".join(line))
    if ir or asm:
        typer.echo(_code(conv, layout, asm))
        return
    from konv.analyze.explain import SECONDS, as_json
    from konv.analyze.explain import explain as found_out
    from konv.cli.page import Page, print_json

    found = found_out(conv, SECONDS if time else 0)
    if json:
        print_json(as_json(found))
    else:
        _print(Page(), found)


def _code(conv: Conv, layout: str, assembly: bool) -> str:
    from konv import llvm
    from konv.analyze.explain import module_of
    from konv.errors import ProblemError

    if layout not in LAYOUTS:
        raise ProblemError(f"layout={layout!r} is unknown. Use {' or '.join(LAYOUTS)}.")
    module = module_of(conv, LAYOUTS[layout])
    return llvm.assembly(module) if assembly else str(module)


def _print(page: Page, found: Explanation) -> None:
    from konv.analyze.concepts import COUNTED

    conv = found.conv
    page.heading(str(conv), ", ".join(sorted(conv.kind)))
    page.pairs(_problem(conv))
    page.text(COUNTED)
    page.heading("How konv computes it here", _target(found))
    page.pairs((name, why or "can do it") for name, why in found.refusals.items())
    page.table(("", "contiguous", "channels-last"), _roads(found))
    if found.seconds and found.best_seconds > 1.05 * min(found.seconds.values()):
        page.text(BUSY)
    page.heading("How fast it can be")
    page.pairs(_limits(found))


def _problem(conv: Conv) -> list[tuple[str, object]]:
    from konv.analyze.units import size, times
    from konv.target import BYTES

    moved = conv.bytes
    return [
        ("input", times(conv.in_shape)),
        ("weight", times(conv.weight_shape)),
        ("output", times(conv.out_shape)),
        ("size", conv.formula()),
        ("parameters", f"{conv.params:,}, {size(conv.params * BYTES[conv.dtype])}"),
        ("MACs", f"{conv.macs:,}"),
        ("exact MACs", f"{conv.exact_macs:,}"),
        ("field", times(conv.receptive_field)),
        ("moved", f"{moved:,} bytes at least, {size(moved)}: input, weight, output"),
        ("intensity", f"{conv.intensity:.1f} FLOPs a byte"),
    ]


def _target(found: Explanation) -> str:
    target = found.target
    lanes = target.lanes(found.conv.dtype)
    summed = "float64" if found.conv.dtype == "float64" else "float32"
    return f"{target.cpu}, {lanes} {summed} in each of {target.registers} registers"


def _roads(found: Explanation) -> list[tuple[str, ...] | None]:
    from konv.analyze import units

    roads = list(found.roads.values())

    def row(label: str, value: Any) -> tuple[str, ...]:
        return (label, *(str(value(road)) for road in roads))

    rows: list[tuple[str, ...] | None] = [
        row("algorithm", lambda road: road.plan.algorithm + " (tuned)" * road.tuned),
        *([row("matrix product", _product)] if any(r.product for r in roads) else []),
        *([row("computed as", lambda r: r.layer or "-")] if any(r.layer for r in roads) else []),
        row("register tile", _tile),
        row("threads", lambda road: road.threads),
        row("scratch memory", lambda road: units.size(road.scratch_bytes)),
        row("packed weights", lambda road: units.size(road.packed_weight_bytes)),
    ]
    if found.seconds:
        times = list(found.seconds.values())
        speeds = [2 * found.conv.macs / time for time in times]
        rows += [
            None,
            ("time", *map(units.duration, times)),
            ("GFLOP/s", *(f"{speed / 1e9:.1f}" for speed in speeds)),
            ("of the peak", *(f"{speed / found.roofline.peak_flops:.1%}" for speed in speeds)),
            ("of the roofline", *(f"{found.best_seconds / time:.1%}" for time in times)),
        ]
    return rows


def _product(road: Road) -> str:
    return " x ".join(map(str, road.product)) if road.product else "-"


def _tile(road: Road) -> str:
    return f"{road.plan.pixels} pixels x {road.plan.vectors} vectors"


def _limits(found: Explanation) -> list[tuple[str, object]]:
    from konv.analyze.units import duration
    from konv.cli.compare import machine

    roofline, conv = found.roofline, found.conv
    limit = {"compute": "arithmetic", "memory": "memory"}[found.bound]
    return [
        ("machine", machine(roofline)),
        (
            "arithmetic",
            f"2 x exact MACs / peak = {duration(2 * conv.exact_macs / roofline.peak_flops)}",
        ),
        ("memory", f"bytes moved / bandwidth = {duration(conv.bytes / roofline.bandwidth)}"),
        (
            "bound by",
            f"{limit}; at best {duration(found.best_seconds)} (caches may hold what memory moves)",
        ),
    ]
