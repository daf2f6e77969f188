"""Depthwise convolution with many taps: fewer multiplications, by blocks of 4 x 4 taps.

F(4, 4) makes 4 outputs of 4 taps from 7 products instead of 16 (Winograd, "Arithmetic Complexity
of Computations", 1980), with the points 0, 1, -1, 2, -2, 1/2 and infinity. Taps are cut into blocks
of four along both axes; blocks lie as far apart as tiles of outputs, so all of them share the
transformed input:

        for unit: for vector of channels:                           channels stand in the lanes
            for band of rows of tiles o:
                for new row of tiles s: columns, then rows of 7 pixels  -> V[49][s][t], a ring
                for j in 49: M[j][o][t] = sum over a, b of V[j][o + a][t + b] * U[j][a][b]
                for o: rows, then columns of M                          -> 4 rows of the output

31 x 31 taps are 64 blocks: 49 * 64 / 16 = 196 multiply-adds an output where there were 961. The
tiles of outputs are 4 x 4 and begin at the first output, so `alignment` is 4. Rounding errors stay
under those of a plain sum of random addends (0.24 sqrt(terms) eps sum|x||w|, measured), but a tile
mixes its outputs: a pixel or weight that is not finite spreads over the tiles that it touches, and
large outputs lend their error to small neighbours. `precision("exact")` forbids it.

31x31 128@56 on two cores of a Granite Rapids (AVX-512): 0.76 ms contiguous, 0.86 channels-last,
against 119 and 3.0 of PyTorch and 1.75 of pencils; 2.2 times the peak by nominal multiply-adds. A
vector of channels takes 0.18 ms of a core: products 0.11, at 0.8 of the peak; transforms of the
input 0.03, bound by the stores of V, which is in the second-level cache; the output's 0.01.
"""

from __future__ import annotations

from math import prod

from konv.geometry import Conv
from konv.kernels import schedule, scratch
from konv.kernels.nested.products import emit_products
from konv.kernels.nested.sizes import BAND, NARROW, columns_of, has_narrow
from konv.kernels.nested.steps import CHUNK, emit_columns, emit_lines, emit_output
from konv.kernels.nested.weights import emit_pack
from konv.kernels.pack import HEADER
from konv.kernels.schedule import MODES
from konv.kernels.strips import emit_run
from konv.kernels.strips.cut import UNITS
from konv.kernels.strips.form import form_of
from konv.kernels.strips.job import JOB
from konv.llvm import Module
from konv.plan import Blocks, Packing, Plan, Strides, Work
from konv.target import BYTES, Target

name = "nested"
exact = False
once = False
words = JOB

# Tiles of products, rows x columns of M: sums for four cycles of two multiply-adds, the weights of
# a row of blocks and a slot.
TILES = {(16, 16): (1, 5), (32, 16): (1, 7), (16, 32): (2, 7), (64, 32): (2, 7)}
TILE = 35  # cycles a lane of a tile of the image, or of the outputs
# Taps along an axis. Of fewer, transforms are most of the time. On maps of 20 pixels and less
# konv.kernels.pencils, which leaves out the taps of padding, is faster (512@14: 17x17 .28 and .12
# ms, 31x31 .56 and .20; 128@56: .47 and .68, .79 and 1.75; Granite Rapids).
LEAST, MOST = 12, 64
# From here on nothing else is nearly as fast; of fewer taps, blocks may lack one at most: where
# they lack more, tiles read pixels that none of their outputs reads, and rounding would follow.
ANY = 28


def _suits(taps: int) -> bool:
    """Whether an axis of so many taps is cut into blocks that lack few."""
    return ANY <= taps <= MOST or (LEAST <= taps < ANY and -taps % 4 <= 1)


def why_not(conv: Conv, target: Target) -> str | None:
    """Only single precision, two axes of many taps each and no steps, a vector of channels."""
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    if (ci, co) != (1, 1):
        return f"takes one channel in and out a group; here {ci} and {co}"
    if conv.dtype != "float32":
        return "takes float32 only, whose errors it is measured for"
    if conv.dims != 2 or not all(_suits(axis.kernel) for axis in conv.axes):
        return (
            f"takes two axes with {ANY} to {MOST} taps each, or from {LEAST} on so many that four "
            f"divide them or one more"
        )
    if any((axis.stride, axis.dilation, axis.up) != (1, 1, 1) for axis in conv.axes):
        return "takes no stride and no dilation"
    if conv.co < target.lanes(conv.dtype):
        return f"takes {target.lanes(conv.dtype)} channels or more; here {conv.co}"
    return None


def plans(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """One plan; none in double precision."""
    if conv.dtype != "float32":
        return ()
    rows, columns = TILES[target.vector_bytes, target.registers]
    form = (*form_of(conv), 0)
    return (Plan(name, conv.dtype, packed, blocked, columns, rows, alignment=4, form=form),)


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Modelled cycles of one core for one image: products at 6/7 of the peak, and what a tile takes
    of the image and of the outputs, the way in and out included (12 to 31 taps of 14 to 112 pixels,
    two threads, .9 to 1.13 of what AVX-512 takes, .77 to 1.18 with AVX2 code; Granite Rapids).
    """
    rows, columns = (-(-axis.out // 4) for axis in conv.axes)
    deep, wide = (-(-axis.kernel // 4) for axis in conv.axes)
    products = 49 * deep * wide * rows * columns_of(plan, columns)[0] / 2
    tiles = (rows + deep - 1) * (columns + wide - 1) + rows * columns
    lanes = target.lanes(conv.dtype)
    return -(-conv.co // lanes) * (products * 7 / 6 + TILE * lanes * tiles)


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """Vectors of channels, and rows of tiles if there are less than two units a thread: where units
    meet, rows are transformed twice (64@56 of 13x13 taps: .19 ms whole, .24 in fours).
    """
    lanes, size = target.lanes(conv.dtype), BYTES[conv.dtype]
    if conv.exact_macs < schedule.ALONE:
        threads = 1
    lines = -(-conv.co // lanes)
    rows = -(-conv.axes[0].out // 4)
    wanted = UNITS * threads if threads > 1 else 1
    each, fewest = -(-rows // BAND) * BAND, min(wanted, 2 * threads)
    while conv.n * lines * -(-rows // each) < fewest and each >= 4 * BAND:
        each = -(-each // (2 * BAND)) * BAND
    words = dict.fromkeys(JOB, 0)
    words["padded"], words["narrow"] = columns_of(plan, -(-conv.axes[1].out // 4))
    boxes = conv.n * -(-rows // each)
    pieces = min(lines, max(1, -(-wanted // max(1, boxes))))
    chunk = -(-lines // pieces)
    chunks = -(-lines // chunk)
    words |= {
        "units": chunks * boxes, "chunks": chunks, "chunk": chunk, "lines": lines,
        "channels": conv.co, "multiplier": 1, "mode": MODES[conv.mode],
        "x_batch": x[0], "x_channel": x[1], "y_batch": y[0], "y_channel": y[1],
        "out0": 1, "box0": 1, "boxes0": 1, "size0": 1,
    }  # fmt: skip
    for a, axis in enumerate(conv.axes, start=1):
        box = min(4 * each, axis.out) if a == 1 else axis.out
        words |= {
            f"size{a}": axis.size, f"lo{a}": axis.lo, f"out{a}": axis.out,
            f"x_stride{a}": x[1 + a], f"y_stride{a}": y[1 + a],
            f"box{a}": box, f"boxes{a}": -(-axis.out // box),
        }  # fmt: skip
    parts = {name: numbers * size for name, numbers in _parts(conv, plan, lanes).items()}
    words["thread_bytes"] = scratch.lay_out(words, parts)
    return Work(list(words.values()), threads, words["thread_bytes"])


def _parts(conv: Conv, plan: Plan, lanes: int) -> dict[str, int]:
    """The parts of a thread's scratch, in numbers."""
    deep, wide = (-(-axis.kernel // 4) for axis in conv.axes)
    columns = -(-conv.axes[1].out // 4)
    width = 4 * (columns + wide - 2) + 7
    padded, _ = columns_of(plan, columns)
    return {
        "at_strip": 8 * width * lanes,
        "at_columns": 7 * (4 * CHUNK + 3) * lanes,
        "at_tiles": 49 * (BAND + deep - 1) * (padded + wide - 1) * lanes,
        "at_sums": 49 * BAND * padded * lanes,
        "at_block": 4 * 4 * columns * lanes,
        "at_dump": lanes,
    }


def packing(conv: Conv, plan: Plan, target: Target) -> Packing:
    """Every vector's blocks transformed, then all biases."""
    lanes = target.lanes(plan.dtype)
    blocks = prod(-(-axis.kernel // 4) for axis in conv.axes)
    numbers = -(-conv.co // lanes) * lanes * (49 * blocks + 1)
    return Packing(HEADER + numbers * BYTES[conv.dtype], conv.groups, 1, 1)


def blocks(conv: Conv, plan: Plan, target: Target) -> Blocks:
    """Tiles of outputs, and the channels that stand side by side."""
    return Blocks(
        pixels=(prod(axis.out for axis in conv.axes), 4 * plan.pixels),
        co=(1, 1),
        ci=(1, 1),
        groups=(conv.groups, target.lanes(plan.dtype)),
    )


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    module = Module(target, name)
    emit_pack(module, plan)
    parts = {
        "columns": emit_columns(module, plan),
        "products": emit_products(module, plan, "products", plan.vectors, plan.pixels),
        "output": emit_output(module, plan),
    }
    if has_narrow(plan):
        parts["narrow"] = emit_products(module, plan, "narrow", BAND, NARROW)
    return emit_run(module, plan, emit_lines(module, plan, parts))
