"""Pixels of a contiguous image into the panels that konv.kernels.panels.tile multiplies.

image   [channel][pixel]  ->  [panel][channel][nv vectors], then what is left: a panel as wide as
                              that is, or [vector][channel][lanes]; zeros behind the last pixel
"""

from __future__ import annotations

from konv.kernels.panels.cut import JOB, joined
from konv.kernels.scratch import LINE
from konv.kernels.words import Words, part_function
from konv.llvm import I8, REAL, SIZE, Function, Module, Pointer, Routine, Value
from konv.plan import Plan

UNIT = ("x", "y", "scratch", "weights", "row", "bias", "pixels", "rows", "residual")
RECORDS = (JOB, UNIT)
AHEAD = 8  # planes: the rows of so many channels on are asked for
SOON = 2  # the same of runs, which are longer


def shares(f: Function, plan: Plan, lanes: int, pixels: Value) -> tuple[Value, Value]:
    """Panels of full width in a row of so many pixels, and how many vectors are left: a last panel
    if they are as many as those or more, which they are where there are tiles for them.
    """
    nv = plan.vectors
    full, vectors = pixels // (nv * lanes), (pixels + (lanes - 1)) // lanes
    left = vectors - full * nv
    joins = (left > 0) & (left <= joined(plan)) & (full > 0)
    full = full - f.select(joins, f.integer(1), 0)
    return full, vectors - full * nv


def emit_copy(module: Module, plan: Plan) -> Routine:
    """copy(job, unit): fill the unit's panels, all channels of its group; those of full width only
    where pixels are no neighbours, as else their first tile does that.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    wide = plan.pixels
    with part_function(module, "copy", records=RECORDS) as (f, piece, _):
        job, unit = piece.job, piece.unit
        source, panels = unit.pointer("x", real), piece.part("at_panels", real)
        full, vectors = shares(f, plan, lanes, unit["pixels"])
        rest = unit["pixels"] - full * wide
        whole, odd = rest // lanes, rest % lanes
        one = vectors >= plan.vectors  # a panel
        next_channel = f.select(one, vectors * lanes, lanes)
        next_vector = f.select(one, f.integer(lanes), job["ci"] * lanes)
        behind, mask = panels + full * job["panel"], f.below(odd, lanes)
        dense = job["x2"].equals(1)
        runs = job["runs"].differs(0)
        nothing = dense & rest.equals(0) & job["runs"].equals(0)
        with f.loop(f.select(nothing, f.integer(0), job["ci"])) as c:
            line, to = source + c * job["x_channel"], panels + c * wide
            left = behind + c * next_channel
            with f.choose(dense) as (neighbours, apart):
                with neighbours:
                    with f.when(runs):
                        _copy_run(f, job, line, to, full, wide, lanes)
                    end = line + full * wide
                    with f.loop(whole) as v:
                        f.prefetch(end + job["x_channel"] * AHEAD + v * lanes)
                        (left + v * next_vector).put(0, end.vector(v * lanes, lanes))
                    with f.when(odd > 0):
                        last = f.load_masked(end + whole * lanes, mask)
                        (left + whole * next_vector).put(0, last)
                with apart:
                    with f.loop(full) as p:
                        begin, panel = line + p * wide * job["x2"], to + p * job["panel"]
                        _gather(f, begin, panel, job["x2"], f.integer(wide))
                    end = line + full * wide * job["x2"]
                    with f.loop(rest, step=lanes) as v:
                        there = left + v // lanes * next_vector
                        there.put(0, f.zero(real, lanes))
                        some = f.least(rest - v, lanes)
                        _gather(f, end + v * job["x2"], there, job["x2"], some)
        return f.fn


def _copy_run(
    f: Function, job: Words, line: Pointer, to: Pointer, full: Value, wide: int, lanes: int
) -> None:
    """The pixels of one channel, of all panels of full width."""
    size = SIZE[line.element]
    with f.loop(full) as p:
        begin, panel = line + p * wide, to + p * job["panel"]
        ahead = (begin + job["x_channel"] * SOON).cast(I8)
        for byte in range(0, wide * size, LINE):
            f.prefetch(ahead + byte)
        for n in range(0, wide, lanes):
            panel.put(n, begin.vector(n, lanes))


def _gather(f: Function, source: Pointer, to: Pointer, step: Value, count: Value) -> None:
    """Pixels that are no neighbours, one by one."""
    with f.loop(count) as i:
        to[i] = source[i * step]
