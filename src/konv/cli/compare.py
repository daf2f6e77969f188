"""konv compare: five kinds of convolution on one photograph, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from konv.cli import table
from konv.cli.examples import examples

if TYPE_CHECKING:
    from konv.analyze.compare import Comparison
    from konv.analyze.layer import Layer
    from konv.cli.page import Page

EPILOG = examples(
    "konv compare",
    "konv compare --image cat.jpg --out cat.png",
    "konv compare --in-channels 64 --out-channels 128 --groups 32 --no-figure",
    "konv compare --kernel 5 --dilation 3 --size 128 --no-time --no-figure",
    "konv compare --no-figure --json",
)


Image = Annotated[
    str, typer.Option(help="A photograph: astronaut, chelsea, coffee, or the path of a file.")
]
Size = Annotated[int, typer.Option(help="Resize its longer side to this; 0 keeps it.", min=0)]
Padding = Annotated[
    int | None, typer.Option(help="Default: what keeps the size.", show_default=False)
]
Groups = Annotated[
    int | None,
    typer.Option(help="Of the grouped kind. Default: one that divides.", show_default=False),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON instead; keys: konv.analyze.compare.as_json.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EPILOG)(compare)


def compare(
    image: Image = "astronaut",
    size: Size = 256,
    in_channels: Annotated[int, typer.Option(help="Input channels; 3 are the colours.")] = 3,
    out_channels: Annotated[int, typer.Option(help="Output channels.")] = 24,
    kernel: Annotated[int, typer.Option(help="Taps along each axis.")] = 3,
    stride: Annotated[int, typer.Option(help="Of all kinds; transposed takes 2 for 1.")] = 1,
    padding: Padding = None,
    dilation: Annotated[int, typer.Option(help="Of the dilated kind.")] = 2,
    groups: Groups = None,
    out: Annotated[Path, typer.Option(help="Where the figure goes.")] = Path("konv-compare.png"),
    figure: Annotated[bool, typer.Option(help="Draw the figure.")] = True,
    time: Annotated[bool, typer.Option(help="Measure the time of each kind.")] = True,
    json: Json = False,
) -> None:
    """Compare five kinds of convolution on one photograph.

    Ordinary, transposed, dilated, grouped and depthwise separable: what each is for, its formulas
    with the numbers put in, its cost, and the time it takes here, beside PyTorch's if installed.
    A figure shows the taps of each kind on the photograph and the feature maps that it gives.
    """
    from konv.analyze.compare import as_json
    from konv.analyze.compare import compare as measure
    from konv.analyze.layers import Settings
    from konv.analyze.photograph import read
    from konv.analyze.timing import SECONDS
    from konv.cli.page import Page, print_json, progress

    settings = Settings(in_channels, out_channels, kernel, stride, padding, dilation, groups)
    if figure:
        _check(out)
    with progress("measuring"):
        photograph = read(image, size)
        found = measure(photograph, settings, SECONDS if time else 0)
        drawn = _draw(found, out) if figure else None
    if json:
        print_json(as_json(found) | {"figure": str(drawn) if drawn else None})
    else:
        _print(Page(), found, drawn)


def _check(out: Path) -> None:
    """Refuse a figure that cannot be drawn now, not after the measuring."""
    from konv.analyze.figure import check

    check(out)


def _draw(found: Comparison, out: Path) -> Path:
    from konv.analyze.figure import draw

    return draw(found, out)


def _print(page: Page, found: Comparison, drawn: Path | None) -> None:
    from konv.analyze.concepts import CONVENTION, LETTERS

    page.heading("Five convolutions on one photograph")
    page.pairs(_setting(found))
    for layer in found.layers:
        _print_layer(page, layer)
    page.heading("How it is counted")
    page.text(LETTERS, CONVENTION)
    page.heading("Side by side")
    page.table(("", *_titles(found)), table.rows(found))
    if found.times:
        page.pairs(table.findings(found))
        page.text(table.measured_how(found))
    if drawn:
        page.text(f"Figure: {drawn}")


def _setting(found: Comparison) -> list[tuple[str, object]]:
    from konv.analyze.units import times

    photograph, s = found.photograph, found.settings
    height, width = found.image.shape[2:]
    resized = "" if (height, width) == photograph.original else f", resized to {height} x {width}"
    rows: list[tuple[str, object]] = [
        ("photograph", f"{photograph.name}, {times(photograph.original)} pixels{resized}"),
        ("channels", f"{s.in_channels}: {found.channels}"),
        (
            "layers",
            f"{s.in_channels} -> {s.out_channels} channels, kernel {s.kernel} x {s.kernel}, "
            f"stride {s.stride}",
        ),
    ]
    if found.roofline:
        rows.append(("machine", machine(found.roofline)))
    return rows


def machine(roofline: Any) -> str:
    """Return a roofline in words."""
    threads = f"{roofline.threads} thread{'s' * (roofline.threads > 1)}"
    return (
        f"{threads}, at best {roofline.peak_flops / 1e9:.0f} GFLOP/s and "
        f"{roofline.bandwidth / 1e9:.1f} GB/s (measured now)"
    )


def _print_layer(page: Page, layer: Layer) -> None:
    from konv.analyze.layer import code

    concept, symbols, worked = layer.concept, layer.concept.symbols, layer.worked()
    page.heading(concept.title, concept.short)
    page.text(concept.concept)
    networks = [f"{network.name}: {network.use}" for network in concept.networks]
    sizes = layer.convs[0].formula().splitlines()
    height, width = layer.convs[0].axes
    page.pairs([
        ("for", concept.purpose),
        ("used by", "\n".join(networks)),
        ("size", "\n".join([symbols.size, *(sizes if height != width else sizes[1:])])),
        ("parameters", f"{symbols.params} = {worked.params}"),
        ("MACs", f"{symbols.macs} = {worked.macs}"),
        ("field", f"{symbols.receptive_field} = {worked.receptive_field}"),
        *(("derived" if i == 0 else "", note) for i, note in enumerate(layer.notes)),
        ("weights", ", ".join(str(conv.weight_shape) for conv in layer.convs)),
    ])  # fmt: skip
    for library, lines in zip(("konv", "PyTorch"), code(layer).values(), strict=True):
        page.pairs([(f"in {library}", "")])
        page.code(lines, "python")


def _titles(found: Comparison) -> list[str]:
    return [layer.concept.title.replace(" ", "\n") for layer in found.layers]
