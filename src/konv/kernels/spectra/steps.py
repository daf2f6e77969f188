"""A unit of konv.kernels.spectra: squares of pixels in, the products, squares of outputs out."""

from __future__ import annotations

from konv.kernels.fourier.columns import emit_column_back, emit_column_in
from konv.kernels.fourier.lengths import length_of, pitch_of
from konv.kernels.fourier.rows import emit_to_pixels
from konv.kernels.fourier.steps import clear_rows, emit_row_out, emit_rows
from konv.kernels.spectra.cut import outputs_of, points_of
from konv.kernels.spectrum.products import emit_products
from konv.kernels.strips.form import Form
from konv.kernels.strips.job import UNIT, part, strip_function
from konv.kernels.strips.lane_rows import emit_block_out, emit_row_in
from konv.kernels.words import Words
from konv.llvm import REAL, Module, Routine
from konv.plan import Plan


def emit_lines(module: Module, plan: Plan, to_bins: Routine) -> Routine:
    """lines(job, unit): some tiles of a group, a range of its outputs."""
    steps = _emit_in(module, plan, to_bins), _emit_products(module, plan), _emit_out(module, plan)
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    high, wide = outputs_of(plan)
    points, depth = points_of(plan), plan.depth
    with strip_function(module, "lines") as (f, job, unit, _):
        group, share = unit["line0"] // job["ranges"], unit["line0"] % job["ranges"]
        first = share * job["vectors"]
        vectors = f.least(job["vectors"], job["lines"] - first)
        rows = (unit["length", 1] + (high - 1)) // high
        columns = (unit["length", 2] + (wide - 1)) // wide
        count = (rows * columns + (plan.pixels - 1)) // plan.pixels * plan.pixels
        # An odd number of vectors from bin to bin, lest all meet in the same sets of a cache
        bin_in = count * (2 * depth) + lanes
        f.call(steps[0], [job.base, unit.base, group, rows, columns, bin_in])
        each = job["ci"] * (2 * points * lanes)  # packed numbers of a vector of outputs
        weights = unit.pointer("weights", real)
        own = weights + (group * job["lines"] + first) * each
        biases = weights + job["chunks"] // job["ranges"] * job["lines"] * each
        biases = biases + (group * job["lines"] + first) * lanes
        with f.loop(vectors, step=plan.vectors) as v:
            some = f.least(vectors - v, plan.vectors)
            at, bias = own + v * each, biases + v * lanes
            told = [at.address(), some, count, rows * columns, bin_in]
            f.call(steps[1], [job.base, unit.base, *told])
            place = group * job["co"] * job["y_channel"]
            last = job["co"] - lanes
            with f.loop(some) as n:
                channel = f.least((first + v + n) * lanes, last) * job["y_channel"]
                told = [place + channel, (bias + n * lanes).address(), n, some]
                f.call(steps[2], [job.base, unit.base, *told, rows, columns])
        return f.fn


def _emit_in(module: Module, plan: Plan, to_bins: Routine) -> Routine:
    """tiles_in(job, unit, group, rows, columns, pitch): the points of all tiles under the unit,
    [bin][tile][real, imaginary][channel]; bins lie `pitch` apart.
    """
    real, lanes, length = REAL[plan.dtype], module.target.lanes(plan.dtype), length_of(plan)
    few = plan.form[10]
    row_in = emit_row_in(module, plan, few=few)
    column = emit_column_in(module, plan, "column")
    form, (high, wide) = Form.of(plan, lanes), outputs_of(plan)
    names = ("group", "rows", "columns", "pitch")
    with strip_function(module, "tiles_in", names) as (f, job, unit, args):
        group, rows, columns, pitch = args
        now, apart = Words(unit.base, UNIT), pitch_of(plan) * lanes
        strip, between, bins, points = (
            part(job, unit, f"at_{name}", real) for name in ("strip", "between", "others", "tiles")
        )
        x = unit.pointer("x", real) + group * job["ci"] * job["x_channel"]
        top, left = f.var(unit["raw", 1]), f.var(unit["raw", 2])
        with f.loop(rows) as h, f.loop(columns) as t:
            now["raw", 1], now["raw", 2] = top.get() + h * high, left.get() + t * wide
            rest = now["length", 1] - h * high, now["length", 2] - t * wide
            under = (
                f.least(rest[0], high) + (form.extent(1) - 1),
                f.least(rest[1], wide) + (form.extent(2) - 1),
            )
            now["slots", 2] = under[1]
            to = points + (h * columns + t) * (2 * plan.depth)
            with f.loop(job["ci"], step=lanes) as c:
                begin = c if few else f.least(c, job["ci"] - lanes)
                own = x + begin * job["x_channel"]
                parts = strip, between, bins
                there = emit_rows(f, plan, (row_in, to_bins), job, now, own, parts, under, few)
                with f.loop(length.bins) as k:
                    clear_rows(f, bins + k * apart, there, length.all, lanes)
                    at = to + k * length.all * pitch + begin
                    f.call(column, [bins + k * apart, between, at, pitch, f.integer(plan.depth)])
        return f.fn


def _emit_products(module: Module, plan: Plan) -> Routine:
    """block(job, unit, weights, vectors, tiles, count, pitch): a block of so many vectors of
    outputs, of all `tiles`, a multiple of plan.pixels of which `count` are there. Products of a bin
    of rows, [point][tile][real, imaginary][output], go back to [tile][vector][bin][row].
    """
    real, lanes, length = REAL[plan.dtype], module.target.lanes(plan.dtype), length_of(plan)
    column, apart = emit_column_back(module, plan, told=True), pitch_of(plan) * lanes
    counts = [each for each in (plan.vectors, plan.tail) if each]
    products = {each: emit_products(module, plan, each, rows=1) for each in counts}
    names = ("weights", "vectors", "tiles", "count", "pitch")
    with strip_function(module, "block", names) as (f, job, unit, args):
        weights, (vectors, tiles, count, pitch) = args[0].to_pointer(real), args[1:]
        points, sums, between, back = (
            part(job, unit, f"at_{name}", real) for name in ("tiles", "sums", "between", "others")
        )
        ci, row = job["ci"], vectors * lanes
        out = tiles * row * 2 + lanes
        with f.loop(length.bins) as k:
            first = k * length.all
            for each, routine in products.items():
                with f.when(vectors.equals(each)), f.loop(length.all) as n:
                    at, own = weights + (first + n) * ci * (2 * row), points + (first + n) * pitch
                    told = [ci, tiles, f.integer(0), row * 2, row]
                    f.call(routine, [own, at, sums + n * out, *told])
            with f.loop(count) as t, f.loop(vectors) as n:
                to = back + (t * vectors + n) * (length.bins * apart) + k * apart
                f.call(column, [sums + t * row * 2 + n * lanes, between, to, out, row])
        return f.fn


def _emit_out(module: Module, plan: Plan) -> Routine:
    """tiles_out(job, unit, place, bias, n, vectors, rows, columns): vector n of a block of so many,
    of all tiles, to the output.
    """
    real, lanes, length = REAL[plan.dtype], module.target.lanes(plan.dtype), length_of(plan)
    to_pixels, apart = emit_to_pixels(module, plan), pitch_of(plan) * lanes
    row_out = emit_block_out(module, plan) if plan.blocked else emit_row_out(module, plan)
    outputs = outputs_of(plan)
    names = ("place", "bias", "n", "vectors", "rows", "columns")
    with strip_function(module, "tiles_out", names) as (f, job, unit, args):
        place, bias, n, vectors, rows, columns = args
        now = Words(unit.base, UNIT)
        between, back, block = (
            part(job, unit, f"at_{name}", real) for name in ("between", "others", "block")
        )
        y = unit.pointer("y", real) + place
        for a in (0, 1, 2):
            y = y + unit["j", a] * job["y_stride", a]
        high, wide = (f.var(now["length", a]) for a in (1, 2))
        with f.loop(rows) as h, f.loop(columns) as t:
            bins = back + ((h * columns + t) * vectors + n) * (length.bins * apart)
            now["length", 2] = f.least(wide.get() - t * outputs[1], outputs[1])
            there = y + h * outputs[0] * job["y_stride", 1] + t * outputs[1] * job["y_stride", 2]
            with f.loop(f.least(high.get() - h * outputs[0], outputs[0])) as o:
                to = there + o * job["y_stride", 1]
                f.call(to_pixels, [bins + o * (2 * lanes), between, block, bias.to_pointer(real)])
                f.call(row_out, [job.base, unit.base, to, 1, 1, length.all])
            now["length", 2] = wide.get()
        return f.fn
