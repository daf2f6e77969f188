"""The first step of konv.kernels.gradient.winograd: V and D of some tiles.

    copy   [image][row][column][channel]          x under a box or dy of it, padding as zeros; in
                                                  the scratch memory of a thread
    V, D   [point][group][vector of channels][tile][lane]

A group's channels are rounded up to whole vectors; those that are missing are zeros. V and D are
written a row of tiles at a time, one vector of channels, so that lines of cache fill up at once.
"""

from __future__ import annotations

from konv.kernels.gradient.records import RECORDS
from konv.kernels.gradient.units import emit_box_words
from konv.kernels.winograd.transforms import Pair, Transform
from konv.kernels.words import part_function
from konv.llvm import F32, I64, SIZE, Module, Routine, Value, pointer_to
from konv.plan import Plan

AXES = (1, 2)  # of the three that the records know
# Tiles for which the places of V and D are asked for in advance: they come from the last cache, 36
# at once (64@56 of 8 images: 3.7 to 2.6 ms, Zen 3). That they are to be written must be known where
# another core may have them (two threads: 4.1 to 2.4 ms).
TILES_AHEAD = 4


def emit_box(module: Module, plan: Plan, both: Pair, turn: Routine) -> Routine:
    """points(job, unit, number, shared, x, dy): V of a box and some channels of x, or D of it and
    some of dy.
    """
    labels, lanes = ("number", "shared", "x", "dy"), module.target.lanes(plan.dtype)
    pixels = turn if plan.packed and plan.blocked else _emit_pixels(module)
    sources = (True, turn if plan.packed else pixels), (False, turn if plan.blocked else pixels)
    points = [_emit_points(module, plan, both, fill, of_x) for of_x, fill in sources]
    with part_function(module, "points", labels, writes=True, cold=True, records=RECORDS) as (
        f,
        piece,
        args,
    ):
        number, shared, x, dy = args
        job, unit = piece.job, piece.unit
        of_x, of_dy = (job["groups"] * job[key] for key in ("ranges_ci", "ranges_co"))
        at, box = number % (of_x + of_dy), job["box"] + number // (of_x + of_dy)
        image, _, first1, first2 = emit_box_words(f, plan, piece, None, [x, dy, box])
        # An axis counts tiles here, so what this makes of places in x and dy is wrong.
        for axis, t, tile in zip(AXES, both, (first1, first2), strict=True):
            begin = _first_output(job["dilation", axis], t, tile)
            last = _first_output(job["dilation", axis], t, tile + unit["length", axis] - 1)
            unit["spread", axis] = last - begin
            unit["raw", axis] = begin * t.stride + job["least", axis]
        unit["y"] = dy + image * job["y_batch"] * SIZE[F32]
        tile = image * job["image_tiles"] + first1 * job["row_tiles"] + first2
        unit["tile"] = tile - job["base"]
        width = plan.vectors * lanes
        with f.choose(at < of_x) as (yes, no):
            with yes:
                unit["group"], c = at // job["ranges_ci"], at % job["ranges_ci"] * job["wide"]
                unit["channel"], unit["channels"] = c, f.least(job["wide"], job["ci"] - c)
                vector = unit["group"] * job["vectors_ci"] + c // lanes
                f.call(points[0], [job.base, unit.base, shared + job["at_v"], vector])
            with no:
                at = at - of_x
                unit["group"], c = at // job["ranges_co"], at % job["ranges_co"] * job["wide"]
                vector = unit["group"] * job["vectors_co"] + c // lanes
                first = job["chunk"] * width
                end = f.least(job["co"] - first, job["vectors_co"] * lanes)
                unit["channel"], unit["channels"] = first + c, f.least(job["wide"], end - c)
                f.call(points[1], [job.base, unit.base, shared + job["at_d"], vector])
        return f.fn


def _emit_points(module: Module, plan: Plan, both: Pair, fill: Routine, of_x: bool) -> Routine:
    """points(job, unit, points, vector): V of the unit's box and channels, or D; `vector`: number
    of their first in all of them.
    """
    which, lanes = "x" if of_x else "dy", module.target.lanes(plan.dtype)
    copy = _emit_copy(module, plan, both, fill, of_x)
    transform = _emit_transform(module, both, of_x)
    labels = ("points", "vector")
    with part_function(module, f"points_{which}", labels, cold=True, records=RECORDS) as (
        f,
        piece,
        args,
    ):
        job, unit = piece.job, piece.unit
        f.call(copy, [job.base, unit.base])
        wide, image = job["wide"], piece.part("at_copy", F32)
        pitch, volume = (job[key if of_x else f"{key}_dy"] for key in ("pitch", "volume"))
        out = args[0].to_pointer(F32) + (args[1] * job["vector"] + unit["tile"] * lanes)
        vectors = (unit["channels"] + (lanes - 1)) // lanes
        point, apart = job["v_point" if of_x else "d_point"], job["dilation", 2]
        steps = [t.step if of_x else t.m for t in both]
        rows = both[0].inputs if of_x else both[0].m
        down = f.select(job["dilation", 1].equals(1), f.integer(steps[0]), rows)
        phase = (unit["raw", 2] - job["least", 2]) // both[1].stride % apart
        with (
            f.loop(unit["images"]) as i,
            f.loop(unit["length", 1]) as h,
            f.loop(vectors) as vector,
        ):
            source = image + ((i * volume + h * down * pitch) * wide + vector * lanes)
            tile = i * job["image_tiles"] + h * job["row_tiles"]
            to = out + (vector * job["vector"] + tile * lanes)
            with f.choose(apart.equals(1)) as (plain, dilated):
                with plain:
                    size = [pitch * wide, wide, wide * steps[1], unit["length", 2]]
                    f.call(transform, [source, *size, to, point])
                with dilated, f.loop((phase + unit["length", 2] + (apart - 1)) // apart) as k:
                    # Tiles of the next outputs each, as many as there are interleaved axes.
                    begin = f.most(k * apart - phase, 0)
                    end = f.least((k + 1) * apart - phase, unit["length", 2])
                    column = f.most(k * apart * both[1].m - phase, 0) * wide
                    size = [pitch * wide, apart * wide, wide, end - begin]
                    f.call(transform, [source + column, *size, to + begin * lanes, point])
        return f.fn


def _first_output(d: Value, t: Transform, tile: Value) -> Value:
    """konv.kernels.gradient.winograd.runs.first_output; `d`: dilation."""
    return tile // d * d * t.m + tile % d


def _emit_copy(module: Module, plan: Plan, both: Pair, fill: Routine, of_x: bool) -> Routine:
    """copy(job, unit): x under the box at hand, the unit's channels; or dy, up to whole tiles.
    `fill` turns a row, or copies its pixels.
    """
    which, lanes = "x" if of_x else "dy", module.target.lanes(plan.dtype)
    with part_function(module, f"copy_{which}", cold=True, records=RECORDS) as (f, piece, _):
        job, unit, to = piece.job, piece.unit, piece.part("at_copy", F32)
        begins = [
            (unit["raw", a] - job["least", a]) // t.stride for a, t in zip(AXES, both, strict=True)
        ]
        apart, count = [job["dilation", a] for a in AXES], []
        for a, t, d in zip(AXES, both, apart, strict=True):
            pixels, each = (t.inputs, t.stride) if of_x else (t.m, 1)
            count.append(unit["spread", a] * each + d * (pixels - 1) + 1)
        if of_x:
            first, size = [unit["raw", a] for a in AXES], [job["size", a] for a in AXES]
            channel = unit["group"] * job["ci"] + unit["channel"]
        else:
            first, size = begins, [job["outs", a] for a in AXES]
            channel = unit["group"] * job["co"] + unit["channel"]
        # Rows of a dilated axis are each tile's own, others all from the first to the last.
        dilated, phase = apart[0] > 1, begins[0] % apart[0]
        pieces = f.select(dilated, unit["length", 1], 1)
        rows = f.select(dilated, f.integer(both[0].inputs if of_x else both[0].m), count[0])
        pitch, volume = (job[key if of_x else f"{key}_dy"] for key in ("pitch", "volume"))
        key, wide, channels = "x" if of_x else "y", job["wide"], unit["channels"]
        down, right = (job[f"{key}_stride", a] for a in AXES)
        with f.when((channels & (lanes - 1)).differs(0)):
            f.clear(to, unit["images"] * volume * wide)
        begin = f.least(f.most(0 - first[1], 0), count[1])
        end = f.most(f.least(size[1] - first[1], count[1]), begin)
        with f.loop(unit["images"]) as i, f.loop(pieces) as h:
            at = first[0] - phase + _first_output(apart[0], both[0], phase + h)
            block = to + (i * volume + h * rows * pitch) * wide
            with f.loop(rows) as r:
                line, row = block + r * pitch * wide, at + r * apart[0]
                with f.choose(f.below_unsigned(row, size[0])) as (there, padding):
                    with padding:
                        f.clear(line, count[1] * wide)
                    with there:
                        f.clear(line, begin * wide)
                        f.clear(line + end * wide, (count[1] - end) * wide)
                        place = i * job[f"{key}_batch"] + channel * job[f"{key}_channel"]
                        place = place + row * down + (first[1] + begin) * right
                        source, out = unit.pointer(key, F32) + place, line + begin * wide
                        if plan.packed if of_x else plan.blocked:
                            step = job[f"{key}_channel"]
                            f.call(fill, [source, step, out, wide, channels, end - begin])
                        else:
                            f.call(fill, [source, right, out, wide, channels, end - begin])
        return f.fn


def _emit_pixels(module: Module) -> Routine:
    """pixels(source, right, to, wide, channels, count): neighbouring pixels that lie
    channels-last.
    """
    lanes = module.target.lanes("float32")
    params = [("source", pointer_to(F32)), ("right", I64), ("to", pointer_to(F32))]
    params += [(name, I64) for name in ("wide", "channels", "count")]
    with module.function("pixels", params, inline=False) as (f, args):
        source, right, to, wide, channels, count = args
        whole = channels & -lanes
        with f.loop(count) as i:
            pixel, out = source + i * right, to + i * wide
            with f.loop(whole, step=lanes) as c:
                out.put(c, pixel.vector(c, lanes))
            with f.loop(channels, start=whole) as c:
                out[c] = pixel[c]
        return f.fn


def _emit_transform(module: Module, both: Pair, of_x: bool) -> Routine:
    """transform(source, row, pixel, ahead, tiles, to, point): B' d B or A dy A' of a row of tiles,
    a vector of channels. `row`, `pixel`, `ahead`, `point`: numbers from one row, pixel, tile or
    point to the next.
    """
    lanes, (over, along) = module.target.lanes("float32"), both
    params = [("source", pointer_to(F32))]
    params += [(label, I64) for label in ("row", "pixel", "ahead", "tiles")]
    params += [("to", pointer_to(F32)), ("point", I64)]
    rows, columns = (t.inputs if of_x else t.m for t in both)
    name = f"transform_{'x' if of_x else 'dy'}"
    with module.function(name, params, inline=False) as (f, args):
        source, row, pixel, ahead, tiles, to, point = args

        def emit(t: Transform, d: list[Value]) -> list[Value]:
            return t.emit_inputs(f, d) if of_x else t.emit_gradients(f, d)

        half = f.array(F32, over.n * columns * lanes)
        with f.loop(tiles) as tile:
            first, out = source + tile * ahead, to + tile * lanes
            with f.loop(columns) as q:
                column = first + q * pixel
                d = [(column + row * r).vector(0, lanes) for r in range(rows)]
                for i, value in enumerate(emit(over, d)):
                    half.put((q + i * columns) * lanes, value)
            with f.loop(over.n) as r:
                line = half + r * (columns * lanes)
                d = [line.vector(q * lanes, lanes) for q in range(columns)]
                place = out + r * along.n * point
                for i, value in enumerate(emit(along, d)):
                    f.prefetch(place + (point * i + lanes * TILES_AHEAD), write=True)
                    place.put(point * i, value)
        return f.fn
