"""The records that the Winograd kernel works from: those of konv.kernels.words and, behind them,
its own words.

The parts that bring contiguous input channels-last (konv.kernels.packing) read the first half of
both records as in any other kernel.

Tiles lie in a grid. A *line* of it is the place of tiles on one axis: its first output, how many of
its outputs there really are, and the first pixel that it reads. A dilated axis is `dilation`
interleaved ones, so the lines of these take turns: first outputs 0, 1, .. dilation - 1, then
m * dilation, and so on. A *box* is some lines of one axis by some of the other, which a unit takes,
in some *planes*, which axis 0 of the records counts: those of a volume, whose results read several
of the image's (`span0` more than there are results); else images, if they are small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from konv.kernels.words import JOB, UNIT, Piece, part_function, per_axis
from konv.llvm import Function, Module, Value

TILE_AXES = (1, 2)  # of the three that the records know

TILES_JOB = (
    *JOB,
    "every",  # blocks of output channels; "blocks" and "tail" of them are full and narrow in a half
    "v_point", "v_vector",  # numbers from one point, and one vector of channels, to the next in V
    "m_point",  # the same in M
    "stage_plane",  # numbers from one channel to the next in staged results
    # Bytes into the thread's scratch.
    "at_planes", "at_ins", "at_outs", "at_dump", "at_v", "at_m", "at_stage",
    *(
        f"{name}{axis}"
        for name in (
            "at_lines",  # word where the lines begin (LINE words each)
            "sparse",  # 1 if each line has slots of its own, 0 if slots are neighbouring pixels
            "dilation",
            "out",
            "crop",  # of cells (konv.kernels.cells): outputs of the first that there are not
            "end",  # sources from here on no output reads; there a tile sees zeros
        )
        for axis in TILE_AXES
    ),
)  # fmt: skip

# Words behind a tile's addresses of results, of cells: its image in the output, its first cell on
# both axes, 1 if it has cells that are not whole.
EDGE = 4
LINE = 3  # words of a line: first output, outputs, first source

TILES_UNIT = (
    *UNIT,
    "place", "group",  # the box and the group whose tables, image and V are in scratch; -1: none
    *per_axis("line", "lines"),  # of the box: first line (plane), and how many
    "base1", "base2",  # its first outputs
    "source1", "source2",  # its first sources, from which slots of dense axes are counted
    "width1", "width2",  # outputs from there to those of the next box, where the axis is dense
)  # fmt: skip


@contextmanager
def tiles_function(
    module: Module,
    name: str,
    extra: Sequence[str] = (),
    *,
    writes: bool = False,
    cold: bool = False,
    plain: bool = False,
) -> Iterator[tuple[Function, Piece, list[Value]]]:
    """As konv.kernels.words.part_function, with the words of both halves."""
    records = (TILES_JOB, TILES_UNIT)
    with part_function(
        module, name, extra, writes=writes, cold=cold, plain=plain, records=records
    ) as found:
        yield found
