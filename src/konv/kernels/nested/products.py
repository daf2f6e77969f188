"""The products of konv.kernels.nested: a sum over the blocks of taps, point by point."""

from __future__ import annotations

from konv.kernels.nested.sizes import BAND, Sizes, blocks_of, part
from konv.kernels.strips.form import Form
from konv.kernels.strips.job import strip_function
from konv.llvm import REAL, Function, Module, Pointer, Routine, Variable
from konv.plan import Plan


def emit_products(module: Module, plan: Plan, name: str, tall: int, count: int) -> Routine:
    """name(job, unit, weights, band): M of the rows of tiles from `band` on, all its points,
    from V. A tile has `tall` rows of `count` sums; a slot of V is loaded once for all blocks of a
    row that read it.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    deep, wide = blocks_of(form)
    held = 8 if module.target.registers == 32 else 4
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
                _add_blocks(f, totals, lines, own + a * (wide * lanes), wide, held)
            to = sums + (j * sizes.sums + o * sizes.padded + t) * lanes
            for r, row in enumerate(totals):
                for n, total in enumerate(row):
                    to.put(sizes.padded * (r * lanes) + n * lanes, total.get())
        return f.fn


def _add_blocks(
    f: Function,
    totals: list[list[Variable]],
    lines: list[Pointer],
    weights: Pointer,
    wide: int,
    held: int,
) -> None:
    """One row of blocks, `held` at a time, whose weights stay in registers."""
    lanes = totals[0][0].type.count
    for begin in range(0, wide, held):
        blocks = range(begin, min(begin + held, wide))
        ws = {b: weights.vector(b * lanes, lanes) for b in blocks}
        for row, line in zip(totals, lines, strict=True):
            for slot in range(begin, blocks[-1] + len(row)):
                v = line.vector(slot * lanes, lanes)
                for b in blocks:
                    if 0 <= slot - b < len(row):
                        total = row[slot - b]
                        total.set(f.fma(v, ws[b], total.get()))
