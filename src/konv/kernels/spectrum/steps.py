"""A unit of konv.kernels.spectrum: rows of pixels in, the products, rows of outputs out."""

from __future__ import annotations

from konv.kernels.fourier.lengths import length_of
from konv.kernels.fourier.rows import emit_to_pixels
from konv.kernels.fourier.steps import emit_row_out
from konv.kernels.spectrum.cut import outputs_of, tall
from konv.kernels.spectrum.products import emit_products
from konv.kernels.strips.job import UNIT, part, strip_function
from konv.kernels.strips.lane_rows import emit_block_out, emit_row_in
from konv.kernels.words import Words
from konv.llvm import REAL, Module, Routine
from konv.plan import Plan


def emit_lines(module: Module, plan: Plan, to_bins: Routine) -> Routine:
    """lines(job, unit): some tiles of a group, a range of its outputs."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    length, outputs, held = length_of(plan), outputs_of(plan), plan.depth
    row_in, to_pixels = emit_row_in(module, plan), emit_to_pixels(module, plan, told=True)
    row_out = emit_block_out(module, plan) if plan.blocked else emit_row_out(module, plan)
    products = emit_products(module, plan, plan.vectors, plan.form[1])
    last = emit_products(module, plan, plan.tail, plan.form[1]) if plan.tail else products
    with strip_function(module, "lines") as (f, job, unit, _):
        now = Words(unit.base, UNIT)  # what changes from tile to tile
        weights, x, y = (unit.pointer(name, real) for name in ("weights", "x", "y"))
        strip, between, block, tiles, sums = (
            part(job, unit, f"at_{name}", real)
            for name in ("strip", "between", "block", "tiles", "sums")
        )
        group, share = unit["line0"] // job["ranges"], unit["line0"] % job["ranges"]
        ci, co, first = job["ci"], job["co"], share * job["vectors"]
        vectors = f.least(job["vectors"], job["lines"] - first)
        wide = (unit["length", 2] + (outputs - 1)) // outputs
        count = (wide * unit["length", 1] + (plan.pixels - 1)) // plan.pixels * plan.pixels
        # An odd number of vectors from bin to bin, lest all meet in the same sets of a cache
        bin_in = (count + wide * tall(plan)) * (2 * held) + lanes
        row = vectors * lanes
        bin_out = count * row * 2 + lanes
        source = x + group * ci * job["x_channel"]
        with f.loop(unit["slots", 1]) as h, f.loop(wide) as t:
            now["raw", 2] = unit["raw", 2] + t * outputs
            width = f.least(unit["slots", 2] - t * outputs, length.all)
            with f.loop(length.all, start=width) as i:
                strip.put(i * lanes, f.zero(real, lanes))
            to = tiles + (h * wide + t) * (2 * held)
            with f.loop(ci, step=lanes) as c:
                begin = f.least(c, ci - lanes)
                own = source + begin * job["x_channel"]
                f.call(row_in, [job.base, unit.base, strip, own, f.integer(0), h, width])
                f.call(to_bins, [strip, between, to + begin, bin_in, f.integer(held)])
        taps = ci * plan.form[1]  # of a bin and pair
        each = taps * (2 * length.bins * lanes)  # packed numbers of a vector of outputs
        below = wide * (2 * held * plan.form[7])
        own = weights + (group * job["lines"] + first) * each
        whole = vectors // plan.vectors * plan.vectors
        with f.loop(length.bins) as k:
            point, out = tiles + k * bin_in, sums + k * bin_out
            with f.loop(whole, step=plan.vectors) as v:
                at = own + v * each + k * taps * (2 * plan.vectors * lanes)
                f.call(products, [point, at, out + v * lanes, ci, count, below, row * 2, row])
            if plan.tail:
                with f.when(whole < vectors):
                    at = own + whole * each + k * taps * (2 * plan.tail * lanes)
                    f.call(last, [point, at, out + whole * lanes, ci, count, below, row * 2, row])
        biases = weights + job["chunks"] // job["ranges"] * job["lines"] * each
        biases = biases + (group * job["lines"] + first) * lanes
        y = y + unit["j", 0] * job["y_stride", 0] + unit["j", 1] * job["y_stride", 1]
        y = y + unit["j", 2] * job["y_stride", 2] + group * co * job["y_channel"]
        with f.loop(unit["length", 1]) as h, f.loop(wide) as t:
            now["length", 2] = f.least(unit["length", 2] - t * outputs, outputs)
            there = y + h * job["y_stride", 1] + t * outputs * job["y_stride", 2]
            with f.loop(vectors) as v:
                place = there + f.least((first + v) * lanes, co - lanes) * job["y_channel"]
                at = sums + (h * wide + t) * row * 2 + v * lanes
                f.call(to_pixels, [at, between, block, biases + v * lanes, bin_out, row])
                f.call(row_out, [job.base, unit.base, place, 1, 1, length.all])
        return f.fn
