"""The products of konv.kernels.nested: a sum over the blocks of taps, point by point."""

from __future__ import annotations

from konv.kernels.nested.sizes import BAND, Sizes, blocks_of, part
from konv.kernels.strips.form import Form
from konv.kernels.strips.job import strip_function
from konv.llvm import REAL, Function, Module, Pointer, Routine, Value, Variable
from konv.plan import Plan


def emit_products(module: Module, plan: Plan, name: str, tall: int, count: int) -> Routine:
    """name(job, unit, weights, band): M of the rows of tiles from `band` on, all its points,
    from V. A tile has `tall` rows of `count` sums; a slot of V is loaded once for all blocks of a
    row that read it.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    deep, wide = blocks_of(form)
    with strip_function(module, name, ("weights", "band")) as (
        f,
        job,
        unit,
        (address, band),
    ):
        sizes, weights = Sizes(form, job, unit), address.to_pointer(real)
        tiles, sums = part(job, unit, "at_tiles", real), part(job, unit, "at_sums", real)
        rows = f.least(sizes.rows - band, BAND)
        pitch, first = sizes.pitch * lanes, band % sizes.ring
        with (
            f.loop(49) as j,
            f.loop(rows, step=tall) as o,
            f.loop(sizes.padded, step=count) as t,
        ):
            zero = f.zero(real, lanes)
            totals = [[Variable(f, zero) for _ in range(count)] for _ in range(tall)]
            own = weights + j * (deep * wide * lanes)
            at = tiles + (j * sizes.plane + t) * lanes
            with f.loop(deep) as a:
                slots = [first + o + a + r for r in range(tall)]
                slots = [f.select(slot >= sizes.ring, slot - sizes.ring, slot) for slot in slots]
                lines = [at + slot * pitch for slot in slots]
                _add_blocks(f, totals, lines, own + a * (wide * lanes), wide)
            to = sums + (j * sizes.sums + o * sizes.padded + t) * lanes
            for r, row in enumerate(totals):
                for n, total in enumerate(row):
                    to.put(sizes.padded * (r * lanes) + n * lanes, total.get())
        return f.fn


def _add_blocks(
    f: Function, totals: list[list[Variable]], lines: list[Pointer], weights: Pointer, wide: int
) -> None:
    """One row of blocks: a block for all sums in turn, of all rows; the slot that comes in takes
    the register of the one that goes out. A slot for all sums that read it, row by row, took 1.02
    to 1.05 times as long (31x31 128@56 with AVX-512, and AVX2 code; Granite Rapids).
    """
    lanes = totals[0][0].type.count
    held: dict[tuple[int, int], Value] = {}
    for b in range(wide):
        weight = weights.vector(b * lanes, lanes)
        for n in range(len(totals[0])):
            for r, (row, line) in enumerate(zip(totals, lines, strict=True)):
                if (r, n + b) not in held:
                    held[r, n + b] = line.vector((n + b) * lanes, lanes)
                row[n].set(f.fma(held[r, n + b], weight, row[n].get()))
