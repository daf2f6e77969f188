"""Pixels of a channels-last image into the panels that konv.kernels.panels multiplies: squares of
as many pixels as a vector has lanes, and as many channels, are transposed in registers.

What is left of a row of pixels lies as konv.kernels.panels.copy has it, its last vector filled up
with the last pixel; channels that fill no square go by fours, then one by one.
"""

from __future__ import annotations

from konv.kernels.packing import transpose
from konv.kernels.panels.copy import RECORDS, shares
from konv.kernels.words import part_function
from konv.llvm import I64, REAL, SIZE, Function, Module, Pointer, Routine, Value, pointer_to
from konv.plan import Plan


def emit_fill(module: Module, plan: Plan) -> Routine:
    """fill(job, unit): the unit's panels."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    square, wide = _emit_square(module, plan), plan.pixels
    with part_function(module, "fill", cold=True, records=RECORDS) as (f, piece, _):
        job, unit = piece.job, piece.unit
        panels, pixels = piece.part("at_panels", real), unit["pixels"]
        full, vectors = shares(f, plan, lanes, pixels)
        rest, behind = full * plan.vectors, panels + full * job["panel"]
        # A last panel of several vectors, or each vector by itself.
        together = vectors >= plan.vectors
        row = f.select(together, vectors * lanes, lanes)
        step = f.select(together, f.integer(lanes), job["ci"] * lanes)
        with f.loop(rest + vectors) as v:
            within = v < rest
            panel = panels + v // plan.vectors * job["panel"] + v % plan.vectors * lanes
            to = f.select_pointer(within, panel, behind + (v - rest) * step)
            begin = unit.pointer("x", real) + v * lanes * job["x2"]
            left = f.least(pixels - v * lanes, lanes)
            ends = to.address(), f.select(within, f.integer(wide), row)
            f.call(square, [begin, job["x2"], left, job["ci"], *ends])
        return f.fn


def _emit_square(module: Module, plan: Plan) -> Routine:
    """square(x, step, left, channels, to, row): all channels of a vector of pixels, of which `left`
    are there, `step` numbers apart; `row`: numbers from a channel to the next in the panel.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    params = [
        ("x", pointer_to(real)),
        *((n, I64) for n in ("step", "left", "channels", "to", "row")),
    ]
    with module.function("square", params, inline=False) as (f, (x, step, left, channels, to, row)):
        pixels = [x + f.least(left - 1, i) * step for i in range(lanes)]
        panel, done = to.to_pointer(real), f.integer(0)
        for side in sorted({lanes, 16 // SIZE[real]}, reverse=True):
            end = channels & -side
            with f.loop(end, start=done, step=side) as c:
                _turn(f, [pixel + c for pixel in pixels], side, panel + c * row, row)
            done = end
        with f.loop(channels, start=done) as c:
            value = f.join([f.splat(pixel[c], 1) for pixel in pixels])
            (panel + c * row).put(0, value)
        return f.fn


def _turn(f: Function, pixels: list[Pointer], side: int, to: Pointer, row: Value) -> None:
    """So many channels of all pixels."""
    for first in range(0, len(pixels), side):
        rows = [pixel.vector(0, side) for pixel in pixels[first : first + side]]
        for c, column in enumerate(transpose(f, rows)):
            (to + row * c).put(first, column)
