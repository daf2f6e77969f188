"""The panel of a box of a weight gradient: dy of its outputs, block by block.

panel   [block][output][vector][lane]              zeros behind the last channel
"""

from __future__ import annotations

from konv.kernels.gradient.records import RECORDS
from konv.kernels.stored import element, read
from konv.kernels.words import AXES, part_function
from konv.llvm import (
    REAL,
    SIZE,
    Module,
    Routine,
)
from konv.plan import Plan

# Pixels that dy is asked for in advance; x, which is turned in squares, a square. With batch 8 and
# 1x1 layers of 64 to 256 channels at 56 pixels 1.1 to 1.2 times as fast (Zen 3).
AHEAD = 12


def emit_panel(module: Module, plan: Plan, turn: Routine) -> Routine:
    """panel(job, unit): dy of the box at hand, the unit's output channels, block by block."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    size = SIZE[element(plan.dtype)]
    run = _emit_run(module, plan, turn)
    pixelwise = None if plan.blocked else _emit_pixelwise(module, plan)
    with part_function(module, "panel", records=RECORDS, plain=True) as (f, piece, _):
        job, unit = piece.job, piece.unit
        width, pixels = plan.vectors * lanes, unit["pixels"]
        lengths = [unit["length", axis] for axis in AXES]
        # Outputs of whole axes lie in one run.
        rows = f.select(job["whole"] >= 1, f.integer(1), lengths[1])
        depths = f.select(job["whole"] >= 2, f.integer(1), lengths[0])
        count = pixels // unit["images"] // (rows * depths)
        begin, panel = unit["block0"], piece.part("at_panel", real)
        if pixelwise is not None:
            # Of channels-last dy whole blocks come a pixel at a time, as they lie in memory
            # (64->256@56 of 8 images: 7.3 to 6.5 ms, Zen 3).
            whole = f.least(f.least(unit["block1"], job["blocks"]), job["co"] // width)
            channel, at = unit["group"] * job["co"] + begin * width, f.var(0)
            with f.loop(unit["images"]) as image, f.loop(depths) as d, f.loop(rows) as h:
                place = channel + image * job["y_batch"]
                place = place + d * job["y_stride", 0] + h * job["y_stride", 1]
                arguments = [unit["y"] + place * size, panel + at.get() * width, count]
                f.call(pixelwise, [job.base, unit.base, *arguments, whole - begin])
                at.add(count)
            begin = f.most(whole, begin)
        with f.loop(unit["block1"], start=begin) as block:
            wide = f.select(block < job["blocks"], f.integer(width), job["tail"] * lanes)
            to = panel + (block - unit["block0"]) * pixels * width
            channel = block * width
            valid = f.least(job["co"] - channel, wide)
            first = (unit["group"] * job["co"] + channel) * job["y_channel"]
            at = f.var(0)
            with f.loop(unit["images"]) as image, f.loop(depths) as d, f.loop(rows) as h:
                place = first + image * job["y_batch"]
                place = place + d * job["y_stride", 0] + h * job["y_stride", 1]
                source = unit["y"] + place * size
                arguments = [source, to + at.get() * wide, count, wide, valid]
                f.call(run, [job.base, unit.base, *arguments])
                at.add(count)
        return f.fn


def _emit_pixelwise(module: Module, plan: Plan) -> Routine:
    """pixelwise(job, unit, source, to, count, blocks): whole blocks of neighbouring outputs that
    lie channels-last.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    labels, width = ("source", "to", "count", "blocks"), plan.vectors * lanes
    with part_function(module, "pixelwise", labels, records=RECORDS) as (f, piece, args):
        source, to = args[0].to_pointer(element(plan.dtype)), args[1].to_pointer(real)
        count, blocks = args[2:]
        step, apart = piece.job["y_stride", 2], piece.unit["pixels"] * width
        with f.loop(count) as p, f.loop(blocks) as block:
            pixel, out = source + (p * step + block * width), to + (block * apart + p * width)
            for k in range(0, width, lanes):
                out.put(k, read(f, plan.dtype, pixel + k, lanes))
        return f.fn


def _emit_run(module: Module, plan: Plan, turn: Routine) -> Routine:
    """run(job, unit, source, to, count, wide, valid): neighbouring outputs, `valid` channels of
    them in `wide` places.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    labels = ("source", "to", "count", "wide", "valid")
    with part_function(module, "run_of_outputs", labels, records=RECORDS) as (f, piece, args):
        source, to = args[0].to_pointer(element(plan.dtype)), args[1].to_pointer(real)
        count, wide, valid = args[2:]
        job = piece.job
        with f.when(valid < wide):
            f.clear(to, count * wide)
        if plan.blocked:
            f.call(turn, [source, job["y_channel"], to, wide, valid, count])
            return f.fn
        full = valid & -lanes
        with f.loop(count) as p:
            pixel, out = source + p * job["y_stride", 2], to + p * wide
            with f.loop(full, step=lanes) as k:
                f.prefetch(pixel + (k + job["y_stride", 2] * AHEAD))
                out.put(k, read(f, plan.dtype, pixel + k, lanes))
            with f.loop(valid, start=full) as k:
                out[k] = read(f, plan.dtype, pixel + k)
        return f.fn
