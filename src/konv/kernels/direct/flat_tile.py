"""Register tiles along pixels in equal steps: layers of one tap, which are products of two
matrices.

    for tile of mr pixels of a row:                        addresses by addition, no tables
        for c in channels of the group: nr vectors of weights times mr pixels' numbers
        the results leave

Of such a layer a tile is short - 64 channels are 400 cycles of multiply-adds - so whatever is done
for each tile counts: a call with its arguments, addresses out of tables, and the tables themselves
took 80 to 110 cycles of it. Every block of output channels has a tile of its own, as many pixels as
its vectors leave registers for: the last block, if it is narrow, has more of them. A pixel that
remains alone is a tile of one: images of 1 x 1 are bound by their weights then, and of 7 x 7 a tile
is saved (1x1 1280->1000@1 0.091 to 0.078 ms, 64->1152@1 9 to 7 us, 2048->512@7 1.06, 960->160@7
1.11 times as fast; Granite Rapids).
"""

from __future__ import annotations

from typing import Any

from konv.kernels.microtile import add_run, multiply_add, store, tiles_ahead
from konv.kernels.scratch import LINE
from konv.kernels.stored import element
from konv.kernels.words import Piece, part_function
from konv.llvm import (
    I8,
    I64,
    REAL,
    SIZE,
    Function,
    Module,
    Pointer,
    Routine,
    Value,
    Variable,
)
from konv.plan import Plan

PARAMETERS = (
    "x", "x_step",  # the row's first pixel, channels of the group; elements to the next
    "weights", "bias", "channels",  # of this block, of the group
    "y", "y_step",  # where the first pixel's results go; elements to the next
    "length",  # pixels in the row
    # What is asked for while a tile is computed, 4 bytes of it for each pixel and channel: where it
    # begins, bytes of it for each pixel behind the row's first, and of all.
    "ask", "ask_step", "asked",
    "far",  # not 0 if results go to memory
    "apart",  # bytes from a result to its residual
)  # fmt: skip
CELLS = (
    "width", "over",  # pixels of a row of cells, elements from its end to the next in the output
    "split", "jump",  # columns of the block in the first row of sub-pixels; elements to the next
)  # fmt: skip


def emit_flat_sweep(
    module: Module, plan: Plan, nr: int, odd: int, steps: tuple[int, ...] = ()
) -> Routine:
    """sweep(job, unit, weights, bias, first, to, new), as konv.kernels.units calls it: one block of
    nr vectors over the rows of the unit. `steps`: pixels are cells of so many sub-pixels on each
    axis, whose columns have the order of a channels-last output (konv.kernels.subpixel.grid).
    """
    tile, real = row_pixels(plan, nr), REAL[plan.dtype]
    row = _emit_row(module, plan, nr, odd, tile, cells=bool(steps))
    one = None if steps else _emit_row(module, plan, nr, odd, 1)
    lanes, size = module.target.lanes(plan.dtype), SIZE[element(plan.dtype)]
    labels = ("weights", "bias", "first", "to", "new")
    with part_function(module, f"sweep_{row.name}", labels, plain=True) as (f, piece, args):
        weights, bias, first, to, new = args
        job, unit = piece.job, piece.unit
        more: list[Value] = []  # what tiles of cells ask for
        pixel_size = SIZE[real] if plan.packed else size
        if plan.packed:
            begin, step = unit["scratch"] + job["at_image"], job["held"]
            down = [job["apart", axis] for axis in range(2)]
        else:
            begin, step = unit["x"], job["x_stride", 2]
            down = [job["x_stride", axis] * size for axis in range(2)]
            for axis, apart in enumerate([*down, step * size]):
                begin = begin + unit["j", axis] * apart
        if plan.blocked:
            width, size = plan.vectors * lanes, SIZE[real]
            to, y_step = unit["scratch"] + job["at_block"], f.integer(width)
            y_down = [unit["length", 1] * unit["length", 2], unit["length", 2]]
            y_down = [pixels * (width * size) for pixels in y_down]
        else:
            if steps:
                to, more = _cell_columns(piece, steps, to)
            to, y_step = unit["y"] + to * size, job["y_stride", 2]
            y_down = [job["y_stride", axis] * size for axis in range(2)]
            if steps:
                y_step = y_step * steps[2]
                y_down = [down * step for down, step in zip(y_down, steps, strict=False)]
                more[:0] = [unit["length", 2], y_down[1] // size - y_step * unit["length", 2]]
            for axis, apart in enumerate([*y_down, y_step * size]):
                to = to + unit["j", axis] * apart
        begin = begin + first * (SIZE[real] if plan.packed else size)
        # The next tile's pixels if they are read for the first time, else the next block's weights
        # (of layers whose weights come from memory: 320 -> 1280 @7x7 0.386 to 0.323 ms, Zen 3).
        fresh = new.differs(0) if not plan.packed else f.integer(0).differs(0)
        block = job["ci"] * (nr * lanes * SIZE[real])
        rows, length = unit["length", 1], unit["length", 2]
        if steps:  # tiles reach from row to row where pixels go on in the same steps
            in_steps = down[1].equals(step * (length * pixel_size))
            rows, length = (
                f.select(in_steps, f.integer(1), rows),
                f.select(in_steps, rows * length, length),
            )
        parts = [(row, f.integer(0), length)]
        if one:
            whole = length - f.extend((length % tile).equals(1), I64)
            parts = [(row, f.integer(0), whole), (one, whole, length - whole)]
        with f.loop(unit["length", 0]) as a, f.loop(rows) as b:
            row_at = begin + a * down[0] + b * down[1]
            ask = f.select(fresh, row_at + step * (tile * SIZE[real]), weights + block)
            ask_step = f.select(fresh, step, job["ci"]) * SIZE[real]
            asked = f.select(fresh, ask_step * length, block)
            y_at = to + a * y_down[0] + b * y_down[1]
            residual = unit["residual"] if plan.residual else f.integer(0)
            behind = [ask, ask_step, asked, job["far"], residual, *more]
            for routine, start, count in parts:
                x_at, to_at = row_at + start * step * pixel_size, y_at + start * y_step * size
                with f.when(count > 0):
                    f.call(
                        routine,
                        [x_at, step, weights, bias, job["ci"], to_at, y_step, count, *behind],
                    )
        return f.fn


def _cell_columns(piece: Piece, steps: tuple[int, ...], column: Value) -> tuple[Value, list[Value]]:
    """Where in a cell the results of a column lie; how many columns from there on lie in the same
    row of sub-pixels, and elements from its end to the next row. A block reaches into one more.
    """
    job = piece.job
    run = job["channels"] * steps[2]

    def row_at(row: Value) -> Value:
        deep, high = row // steps[1], row % steps[1]
        there: Value = deep * job["y_stride", 0] + high * job["y_stride", 1]
        return there

    row, at = column // run, column % run
    here = row_at(row)
    return here + at, [run - at, row_at(row + 1) - here - run]


def row_pixels(plan: Plan, nr: int) -> int:
    """Pixels of a tile of nr vectors: the last block has its own number."""
    return plan.pixels if nr == plan.vectors else plan.form[-1]


def _emit_row(
    module: Module, plan: Plan, nr: int, odd: int, mr: int, cells: bool = False
) -> Routine:
    """row(*PARAMETERS): all tiles of a row, each of mr pixels; those missing in the last one are
    its last pixel again. Of `cells` (*PARAMETERS, *CELLS): a tile may reach into the next row of
    them, a block into the next row of sub-pixels.
    """
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    names = (*PARAMETERS, *CELLS) if cells else PARAMETERS
    params = [(p, I64) for p in names]
    name = f"flat_{mr}x{nr}" + (f"_{odd}" if odd else "")
    with module.function(name, params, inline=False) as (f, args):
        a: dict[str, Any] = dict(zip(names, args, strict=True))
        x, y = a["x"].to_pointer(real), a["y"].to_pointer(_kind(plan))
        weights, bias = a["weights"].to_pointer(real), a["bias"].to_pointer(real)
        x_steps = [f.var(a["x_step"] * m) for m in range(mr)]
        y_steps = [f.var(a["y_step"] * m) for m in range(mr)]
        crossed = f.var(0)  # not 0: the tile before had steps of its own
        ahead = tiles_ahead(f, a["channels"]) * mr
        with f.loop(a["length"], step=mr) as pixel:
            left = a["length"] - pixel
            line = y
            if cells:
                line = y + _reach_over(f, a, pixel, crossed, x_steps, y_steps) * a["over"]
            else:
                with f.when(left < mr):
                    for m in range(1, mr):
                        at = f.least(left - 1, m)
                        x_steps[m].set(a["x_step"] * at)
                        y_steps[m].set(a["y_step"] * at)
            begin = x + pixel * a["x_step"]
            asked = pixel * a["ask_step"]
            behind = f.select(asked < a["asked"], a["ask"] + asked, weights.address())
            behind = behind.to_pointer(real)
            pixels = [begin + step.get() for step in x_steps]
            if not plan.blocked:
                with f.when(a["far"].differs(0)):
                    _fetch_places(f, line, pixel + ahead, a, mr, nr * lanes)
            vectors = [bias.vector(n * lanes, lanes) for n in range(nr)]
            sums = [[Variable(f, vector) for vector in vectors] for _ in range(mr)]
            add_channels(f, plan, sums, a, weights, pixels, behind)
            to = line + pixel * a["y_step"]
            places = [to + step.get() for step in y_steps]
            offsets = [
                f.select(a["split"] > n * lanes, f.integer(0), a["jump"]) + n * lanes
                for n in range(nr * cells)
            ]
            store(f, plan, sums, places, a["apart"], odd, offsets)
        return f.fn


def _reach_over(
    f: Function,
    a: dict[str, Any],
    pixel: Value,
    crossed: Variable,
    x_steps: list[Variable],
    y_steps: list[Variable],
) -> Value:
    """The row of cells in which a tile begins at `pixel`. Steps of one that ends behind a row are
    its own, and those of the next tile, as of most, what they were.
    """
    mr, left = len(x_steps), a["length"] - pixel
    row: Value = pixel // a["width"]
    column = pixel - row * a["width"]
    over = f.extend((column + mr > a["width"]) | (left < mr), I64)
    with f.when((over | crossed.get()).differs(0)):
        crossed.set(over)
        for m in range(1, mr):
            at = f.least(left - 1, m)
            x_steps[m].set(a["x_step"] * at)
            y_steps[m].set(a["y_step"] * at + (column + at) // a["width"] * a["over"])
    return row


def _kind(plan: Plan) -> Any:
    return REAL[plan.dtype] if plan.blocked else element(plan.dtype)


def add_channels(
    f: Function,
    plan: Plan,
    sums: list[list[Variable]],
    a: dict[str, Any],
    weights: Pointer,
    pixels: list[Pointer],
    behind: Pointer,
) -> None:
    """All channels of the tile's pixels."""
    if not plan.depth:
        add_run(f, sums, weights, pixels, a["channels"], behind)
    for channel in range(plan.depth):
        multiply_add(f, sums, weights, pixels, f.integer(channel))


def _fetch_places(
    f: Function, y: Pointer, pixel: Value, a: dict[str, Any], mr: int, numbers: int
) -> None:
    """Ask for the memory that the next tile's results go to: a store would wait for it."""
    size = SIZE[y.element]
    for m in range(mr):
        place = (y + (pixel + m) * a["y_step"]).cast(I8)
        for byte in range(0, numbers * size, LINE):
            f.prefetch(place + byte)
