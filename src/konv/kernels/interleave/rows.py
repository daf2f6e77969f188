"""Rows out of konv.kernels.interleave: the sweeps over one row of sub-pixels lie side by side in
scratch, so each row of cells there is a row of outputs by channels.
"""

from __future__ import annotations

from konv.kernels.results import emit_output_squares, put_row
from konv.kernels.subpixel.grid import Grid
from konv.kernels.weave import corner_of
from konv.kernels.weave.copy import emit_copy
from konv.kernels.words import part_function
from konv.llvm import REAL, Module, Routine, Value
from konv.plan import Plan


def emit_rows_out(module: Module, plan: Plan, grid: Grid, width: int) -> Routine:
    """output(job, unit, column, valid): the block at hand, `width` numbers a cell, goes into planes
    or into channels-last rows of the output.
    """
    real, wide = REAL[plan.dtype], width // grid.steps[2]
    if plan.blocked:
        squares = emit_output_squares(module, plan, wide)
    else:
        copy = emit_copy(module, plan, wide, 0)
    labels = ("column", "valid")
    with part_function(module, "output", labels, cold=True) as (f, piece, (column, _)):
        job, unit = piece.job, piece.unit
        group = column // job["co"]
        block = (column - group * job["co"]) // width
        low, lines = corner_of(job, unit, 2, 0), grid.steps[0] * grid.steps[1]
        rest, channel = block % lines, block // lines * wide
        valid = f.least(job["channels"] - channel, wide)
        y = unit.pointer("y", real) + (group * job["channels"] + channel) * job["y_channel"]
        cells, plane, step = unit["length", 2], job["y_channel"], job["y_stride", 2]
        run = f.least(cells * grid.steps[2], job["outputs", 2] - low)
        residual = [unit["residual"]] if plan.residual else []
        with f.loop(unit["length", 0]) as d, f.loop(unit["length", 1]) as h:
            source = piece.part("at_block", real) + (d * unit["length", 1] + h) * cells * width
            rows = [corner_of(job, unit, 0, d) + rest // grid.steps[1]]
            rows.append(corner_of(job, unit, 1, h) + rest % grid.steps[1])
            line = y + (rows[0] * job["y_stride", 0] + rows[1] * job["y_stride", 1])
            line = line + low * step
            with f.when((rows[0] < job["outputs", 0]) & (rows[1] < job["outputs", 1])):
                if plan.blocked:
                    sizes = run, valid, plane, f.integer(1)
                    put_row(f, plan, squares, wide, source, line, sizes, residual)
                else:
                    crop: list[Value | int] = [0, valid * run, valid]
                    f.call(copy, [source, line, run, step, valid, *crop, *residual])
        return f.fn
