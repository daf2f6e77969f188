"""The loops of konv.kernels.gradient.pencils along a row of outputs, for one vector of channels.

    pass: some rows of the kernel, some taps of each
        load their sums
        for tile of outputs that read no padding:          THE LOOP
            load dy of the tile
            for slot under it, for row: load x; multiply-add it into all sums that it belongs to
        for output beside the tiles, one at a time
        store the sums

Multiply-adds bind it: 4 outputs of a 3x3 are 36 of them, 18 cycles, for 22 loads. LLVM would load
early and spill, so each product is asked for before anything behind it is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

from konv.kernels.gradient.depthwise import CHAINS, Window, readers
from konv.kernels.gradient.records import RECORDS
from konv.kernels.words import Piece, part_function
from konv.llvm import I64, REAL, Function, Module, Pointer, Routine, Value, Variable
from konv.plan import Plan
from konv.target import Target


@dataclass(frozen=True, slots=True)
class Form(Window):
    """What a plan's loops are specialised on: a tile is some neighbouring outputs of a row."""

    @property
    def extent(self) -> int:
        """Columns that an output reads, from first to last."""
        return (self.kernel[2] - 1) * self.dilation[2] + 1

    @property
    def ahead(self) -> int:
        """Columns from a tile to the next."""
        return self.pixels * self.stride[2]

    def uses(self, taps: int) -> dict[int, list[tuple[int, int]]]:
        """slot -> (output, tap) that read it, in a tile; slots ascend."""
        return readers(self.pixels, taps, self.stride[2], self.dilation[2])


def most_sums(target: Target) -> int:
    """In registers: beside them are dy of a tile and x, and without multiply-add products."""
    if target.registers == 32:
        return 25
    return 10 if target.vector_bytes > 16 else 9


def emit_pass(module: Module, plan: Plan, rows: int, taps: int) -> Routine:
    """pass(job, unit, row, tap, on, dy, sums, fetch, begin, end): tiles of a row of outputs with
    so many rows of the kernel and taps of each; with the last tile, the outputs beside all tiles.
    Apart, so that nothing else needs registers.

    row     of the kernel, the first of those; tap: the first of each
    on      elements from the unit's first channel on, in all arrays
    dy      of the row of outputs
    sums    of the vector, all taps
    fetch   1 if what the outputs below read, and these do not, is to be asked for
    begin   the first output of the tiles, and the one behind them
    """
    labels = ("row", "tap", "on", "dy", "sums", "fetch", "begin", "end")
    with part_function(module, f"pass_{rows}x{taps}", labels, records=RECORDS) as (f, piece, args):
        form = Form.of(plan, module.target.lanes(plan.dtype))
        _Pass(f, piece, form, plan, rows, taps, args).add()
        return f.fn


Sums = list[list[Variable]]  # by row and tap


class _Pass:
    """A pass while it is emitted."""

    def __init__(
        self, f: Function, piece: Piece, form: Form, plan: Plan, rows: int, taps: int,
        args: list[Value],
    ) -> None:  # fmt: skip
        self.f, self.form, self.rows, self.taps = f, form, rows, taps
        self.job, self.unit, real = piece.job, piece.unit, REAL[plan.dtype]
        row, tap, on, dy, sums, self.fetch, self.begin, self.end = args
        entries = piece.part("at_rows", I64) + row * 2
        self.at = [entries.pointer(2 * m, real) + on for m in range(rows)]
        self.steps = [entries[2 * m + 1] for m in range(rows)]
        self.tap, self.listed = tap, piece.part("at_beside", I64)
        self.zeros = piece.part("at_zeros", real) + on
        self.dy, self.sums = dy.to_pointer(real) + on, sums.to_pointer(real)
        self.sums = self.sums + (row * form.kernel[2] + tap) * form.lanes
        self.y_step = self.job["y_stride", 2]
        self.column = self.unit["raw", 2] + tap * form.dilation[2]

    def add(self) -> None:
        """All outputs of the row."""
        f, lanes, reach = self.f, self.form.lanes, self.form.kernel[2]
        places = [[(m * reach + t) * lanes for t in range(self.taps)] for m in range(self.rows)]
        totals = [[Variable(f, self.sums.vector(p, lanes)) for p in line] for line in places]
        sets = [totals, *self._more_sets(totals)]
        with f.choose(self.fetch.differs(0)) as (fetching, plain):
            with fetching:
                self._tiles(sets, True)
            with plain:
                self._tiles(sets, False)
        for more in sets[1:]:
            for line, others in zip(totals, more, strict=True):
                for total, other in zip(line, others, strict=True):
                    total.set(total.get() + other.get())
        with f.when(self.end.equals(self.unit["inner1"])), f.loop(self.unit["beside"]) as number:
            self._output(number, totals)
        for line, own in zip(totals, places, strict=True):
            for total, place in zip(line, own, strict=True):
                self.sums.put(place, total.get())

    def _more_sets(self, totals: Sums) -> list[Sums]:
        """Where chains of multiply-adds are few, several sums of each tap take turns."""
        f, sums = self.f, self.rows * self.taps
        count = min(self.form.pixels, -(-CHAINS // sums))
        if count * sums > most_sums(f.module.target):
            return []
        zero = f.zero(self.dy.element, self.form.lanes)
        return [[[Variable(f, zero) for _ in line] for line in totals] for _ in range(count - 1)]

    def _tiles(self, sets: list[Sums], fetching: bool) -> None:
        """Outputs that read no padding."""
        f, form, lanes = self.f, self.form, self.form.lanes
        column, uses = self.column + self.begin * form.stride[2], form.uses(self.taps)
        lines = [
            _Walk(f, p + column * step, step) for p, step in zip(self.at, self.steps, strict=True)
        ]
        gradients = _Walk(f, self.dy + self.begin * self.y_step, self.y_step)
        with f.loop(self.end, start=self.begin, step=form.pixels):
            at = gradients.places(form.pixels, form.pixels)
            dy = [p.vector(0, lanes) for p in at]
            slots = [line.places(max(uses) + 1, form.ahead) for line in lines]
            if fetching:
                for p in at:
                    f.prefetch(p + self.job["y_stride", 1])
            for slot, pairs in uses.items():
                for m, places in enumerate(slots):
                    x = places[slot].vector(0, lanes)
                    for output, tap in pairs:
                        total = sets[output % len(sets)][m][tap]
                        total.set(f.now(f.fma(x, dy[output], total.get())))
                if fetching and slot < form.ahead:
                    for row in range(min(form.stride[1], form.kernel[1])):
                        below = self.job["x_stride", 1] * (form.stride[1] - row)
                        f.prefetch(slots[-1][slot] + below)

    def _output(self, number: Value, totals: Sums) -> None:
        """One of the outputs beside the tiles, whose places are listed."""
        f, lanes = self.f, self.form.lanes
        listed = self.listed + number * (self.form.kernel[2] + 1)
        dy, columns = (self.dy + listed[0]).vector(0, lanes), listed + 1 + self.tap
        for t in range(self.taps):
            column = columns[t]
            padding = column < 0
            for row, step, sums in zip(self.at, self.steps, totals, strict=True):
                there = row + f.select(step.equals(0), f.integer(0), column)
                x = f.select_pointer(padding, self.zeros, there).vector(0, lanes)
                sums[t].set(f.fma(x, dy, sums[t].get()))


class _Walk:
    """An address that goes on in steps."""

    def __init__(self, f: Function, begin: Pointer, step: Value) -> None:
        self.f, self.element, self.step, self.at = f, begin.element, step, f.var_of(begin)

    def places(self, count: int, ahead: int) -> list[Pointer]:
        """So many from here on; goes on by `ahead` steps."""
        places = [self.f.opaque(Pointer(self.f, self.at.get().ir, self.element))]
        while len(places) <= max(count - 1, ahead):
            places.append(places[-1] + self.step)
        self.at.set(places[ahead])
        return places[:count]
