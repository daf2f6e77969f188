"""What a box of tiles needs before its products are formed, and what becomes of them.

    copies   [image][row][column][channel]        x under the box and dy of it, padding as zeros
    V, D     [vector of channels][point][tile][lane]
    products [block][point][ci][vector of co][lane]  ->  sums [block][ci, tap][vector of co][lane]

A unit's channels are rounded up to whole vectors; those that are missing are zeros.
"""

from __future__ import annotations

from konv.kernels.gradient_words import RECORDS
from konv.kernels.winograd_transforms import Transform
from konv.kernels.words import Piece, part_function
from konv.llvm import F32, I64, SIZE, Function, Module, Pointer, Routine, Value, pointer_to
from konv.plan import Plan

Pair = tuple[Transform, Transform]  # along columns (over rows of pixels), along rows
AXES = (1, 2)  # of the three that the records know


def emit_copy(module: Module, plan: Plan, both: Pair, turn: Routine, which: str) -> Routine:
    """copy(job, unit): x under the box at hand, the unit's channels; or dy, up to whole tiles."""
    of_x, lanes = which == "x", module.target.lanes(plan.dtype)
    with part_function(module, f"copy_{which}", records=RECORDS) as (f, piece, _):
        job, unit = piece.job, piece.unit
        if of_x:
            first, count = ([unit[key, a] for a in AXES] for key in ("raw", "slots"))
            size, image = [job["size", a] for a in AXES], piece.part("at_image", F32)
            channels, channel = unit["channels"], unit["group"] * job["ci"] + unit["channel"]
            wide, pitch, volume = job["wide_ci"], job["pitch"], job["volume"]
        else:
            first = [unit["raw", a] - job["least", a] for a in AXES]
            count = [unit["length", a] * t.m for a, t in zip(AXES, both, strict=True)]
            size, image = [job["outs", a] for a in AXES], piece.part("at_dy", F32)
            width = plan.vectors * lanes
            begin = unit["block0"] * width
            channels = f.least(job["co"], unit["block1"] * width) - begin
            channel = unit["group"] * job["co"] + begin
            wide, pitch, volume = job["wide_co"], job["pitch_dy"], job["volume_dy"]
        key = "x" if of_x else "y"
        batch, apart = job[f"{key}_batch"], job[f"{key}_channel"]
        down, right = (job[f"{key}_stride", a] for a in AXES)
        with f.when(channels < wide):
            f.clear(image, unit["images"] * volume * wide)
        begin = f.least(f.most(0 - first[1], 0), count[1])
        end = f.most(f.least(size[1] - first[1], count[1]), begin)
        with f.loop(unit["images"]) as i, f.loop(count[0]) as r:
            to, row = image + (i * volume + r * pitch) * wide, first[0] + r
            with f.choose(f.below_unsigned(row, size[0])) as (there, padding):
                with padding:
                    f.clear(to, count[1] * wide)
                with there:
                    f.clear(to, begin * wide)
                    f.clear(to + end * wide, (count[1] - end) * wide)
                    at = i * batch + row * down + (first[1] + begin) * right + channel * apart
                    source, line = unit.pointer(key, F32) + at, to + begin * wide
                    if plan.packed if of_x else plan.blocked:
                        f.call(turn, [source, apart, line, wide, channels, end - begin])
                    else:
                        _copy_pixels(f, (source, right), (line, wide), end - begin, channels)
        return f.fn


def _copy_pixels(
    f: Function, source: tuple[Pointer, Value], to: tuple[Pointer, Value], count: Value,
    channels: Value,
) -> None:  # fmt: skip
    """Neighbouring pixels that lie channels-last."""
    lanes = f.module.target.lanes("float32")
    whole = channels & -lanes
    with f.loop(count) as i:
        pixel, out = source[0] + i * source[1], to[0] + i * to[1]
        with f.loop(whole, step=lanes) as c:
            out.put(c, pixel.vector(c, lanes))
        with f.loop(channels, start=whole) as c:
            out[c] = pixel[c]


def emit_points(module: Module, plan: Plan, both: Pair, which: str) -> Routine:
    """points(job, unit): V of the copy of x, or D of that of dy, tile after tile."""
    of_x, lanes = which == "v", module.target.lanes(plan.dtype)
    transform = _emit_transform(module, both, which)
    with part_function(module, f"points_{which}", records=RECORDS) as (f, piece, _):
        job, unit = piece.job, piece.unit
        wide, pitch, volume = (
            job[key]
            for key in (
                ("wide_ci", "pitch", "volume") if of_x else ("wide_co", "pitch_dy", "volume_dy")
            )
        )
        image = piece.part("at_image" if of_x else "at_dy", F32)
        out, number = piece.part("at_v" if of_x else "at_d", F32), f.var(0)
        down, along = (t.m for t in both)
        with (
            f.loop(unit["images"]) as i,
            f.loop(unit["length", 1]) as h,
            f.loop(unit["length", 2]) as w,
        ):
            source = image + (i * volume + h * down * pitch + w * along) * wide
            steps = pitch * wide, wide, wide // lanes
            to = out + number.get() * lanes
            f.call(transform, [source, *steps, to, job["v_point"], job["v_vector"]])
            number.add(1)
        return f.fn


def _emit_transform(module: Module, both: Pair, which: str) -> Routine:
    """transform(source, row, pixel, vectors, to, point, vector): B' d B or A dy A' of one tile, all
    its channels. `row`, `pixel`, `point`, `vector`: numbers from one to the next.
    """
    lanes, (over, along) = module.target.lanes("float32"), both
    params = [("source", pointer_to(F32))]
    params += [(label, I64) for label in ("row", "pixel", "vectors")]
    params += [("to", pointer_to(F32)), ("point", I64), ("vector", I64)]
    of_x = which == "v"
    rows, columns = (t.n if of_x else t.m for t in both)
    with module.function(f"transform_{which}", params, inline=False) as (f, args):
        source, row, pixel, vectors, to, point, vector = args

        def emit(t: Transform, d: list[Value]) -> list[Value]:
            return t.emit_inputs(f, d) if of_x else t.emit_gradients(f, d)

        half = f.array(F32, over.n * columns * lanes)
        with f.loop(vectors) as number:
            first, out = source + number * lanes, to + number * vector
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
                    place.put(point * i, value)
        return f.fn


def emit_finish(module: Module, plan: Plan, both: Pair) -> Routine:
    """finish(job, unit): G' U G of every pair of channels of the unit."""
    with part_function(module, "finish", records=RECORDS) as (f, piece, _):
        job, unit, lanes = piece.job, piece.unit, module.target.lanes(plan.dtype)
        routines = {
            nr: _emit_taps(module, both, nr)
            for nr in dict.fromkeys((plan.vectors, plan.tail or plan.vectors))
        }
        with f.loop(unit["block1"], start=unit["block0"]) as block:
            products, sums = block_parts(piece, plan, both, lanes, block)
            arguments = [products, job["wide_ci"], unit["channels"], sums]
            call_by_width(f, plan, piece, block, routines, arguments)
        return f.fn


def block_parts(
    piece: Piece, plan: Plan, both: Pair, lanes: int, block: Value
) -> tuple[Pointer, Pointer]:
    """Where the products and sums of a block begin."""
    width, number = plan.vectors * lanes, block - piece.unit["block0"]
    points = both[0].n * both[1].n
    products = piece.part("at_products", F32) + number * piece.job["wide_ci"] * (width * points)
    return products, piece.part("at_sums", F32) + number * piece.job["padded_rows"] * width


def call_by_width(
    f: Function, plan: Plan, piece: Piece, block: Value, routines: dict[int, Routine],
    arguments: list[Value],
) -> None:  # fmt: skip
    """The routine for full blocks, or that for the last one."""
    if not plan.tail:
        f.call(routines[plan.vectors], arguments)
        return
    with f.choose(block < piece.job["blocks"]) as (full, last):
        with full:
            f.call(routines[plan.vectors], arguments)
        with last:
            f.call(routines[plan.tail], arguments)


def _emit_taps(module: Module, both: Pair, nr: int) -> Routine:
    """taps(products, rows, channels, sums): G' U G of a block; `rows` of its channels there is room
    for.
    """
    lanes, (over, along) = module.target.lanes("float32"), both
    params = [("products", pointer_to(F32)), ("rows", I64), ("channels", I64)]
    with module.function(
        f"taps_{nr}", [*params, ("sums", pointer_to(F32))], inline=False
    ) as (f, (products, rows, channels, sums)):
        half, point = f.array(F32, over.r * along.n * lanes), rows * (nr * lanes)
        with f.loop(channels) as c, f.loop(nr) as n:
            first = products + (c * nr + n) * lanes
            with f.loop(along.n) as q:
                column = first + q * point
                u = [(column + point * (r * along.n)).vector(0, lanes) for r in range(over.n)]
                for i, value in enumerate(over.emit_taps(f, u)):
                    half.put((q + i * along.n) * lanes, value)
            out = sums + (c * (over.r * along.r * nr) + n) * lanes
            with f.loop(over.r) as r:
                line = half + r * (along.n * lanes)
                u = [line.vector(q * lanes, lanes) for q in range(along.n)]
                for i, value in enumerate(along.emit_taps(f, u)):
                    out.put((r * along.r + i) * (nr * lanes), value)
        return f.fn
