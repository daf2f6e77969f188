"""Depthwise convolution of 7, 8 or 11 rows of taps: fewer multiplications, by blocks of 4 rows.

F(4, 4) makes 4 outputs of 4 taps from 7 products instead of 16 (Winograd, "Arithmetic Complexity of
Computations", 1980), with the points 0, 1, -1, 2, -2, 1/2 and infinity; here along columns only,
for transforms along both axes cost more than they save of so few taps. Blocks lie as far apart as
tiles of outputs, so all of them share the transformed rows:

    for unit: for row of tiles s: for vector of channels:   channels stand in the lanes
            7 rows of pixels -> points, in a ring           V[s][7][column]
            for columns: for j in 7:                        a register tile
                sums over blocks a and taps along the row of V[o + a][j] * U[j][a]
            7 sums -> 4 rows of the output

Of 7 and 11 rows the last block has three, whose product at infinity is left out with the pixels
that only it would read: 7 x 7 taps are 22.75 multiply-adds an output where there were 49. 9 or 10
rows would have tiles read pixels that none of their outputs reads, and rounding would follow those.

Of a register tile taps come for all outputs in turn, as in konv.kernels.strips.turns: a slot for
all outputs that read it took 18.5 cycles a vector of results, so 15, products alone 12.25 then
(with all products at infinity). Channels-last rows inside the image are read where they lie.

Zen 3, kernels alone, 7x7 96@56 channels-last: one thread 460 to 300 us, two 252 to 182; 192@28 204
to 163 and 130 to 107; 11x11 256@24 580 to 386 and 400 to 302. Contiguous images are transposed on
their way, 4 cycles a vector: as fast as planes up to 9 taps, which are exact. The vectors that
share a line of the cache take turns by rows of tiles: one thread 1.0 to 1.15 times as fast as one
after the other. Tried: boxes of 28 columns, which fit into the first-level cache, 1.1 times as
long; asking for the rows of the next tile, or for places of results, 1.0 to 1.1.

Rounding errors stay near those of a plain sum of random addends. A tile mixes its four outputs of a
column: a pixel or weight that is not finite spreads over the tiles that it touches.
`precision("exact")` forbids it.
"""

from __future__ import annotations

from math import prod

from konv.geometry import Conv
from konv.kernels import schedule, scratch
from konv.kernels.pack import HEADER
from konv.kernels.schedule import MODES
from konv.kernels.scratch import LINE
from konv.kernels.strips import emit_run
from konv.kernels.strips.cut import UNITS
from konv.kernels.strips.form import form_of
from konv.kernels.strips.job import JOB
from konv.kernels.upright.sizes import POINTS
from konv.kernels.upright.steps import RING, emit_lines
from konv.kernels.upright.weights import emit_pack
from konv.llvm import Module
from konv.plan import Blocks, Packing, Plan, Strides, Work
from konv.target import BYTES, Target

name = "upright"
exact = False
once = False
words = JOB

# Outputs of a tile along the row, whose sums are in registers beside the weights of a row of taps
TILES = {(16, 16): 5, (32, 16): 8, (16, 32): 14, (64, 32): 14}
# Taps along an axis. Of fewer, transforms are as much as what they save. Of more, most are used on
# maps that they reach over, where pencils leave out what meets padding: 13x13 512@14 .44 ms here,
# .36 there.
ROWS, LEAST, MOST = (7, 8, 11), 7, 11


def why_not(conv: Conv, target: Target) -> str | None:
    """Only single precision, two axes of some taps each and no steps, a vector of channels."""
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    if (ci, co) != (1, 1):
        return f"takes one channel in and out a group; here {ci} and {co}"
    if conv.dtype != "float32":
        return "takes float32 only, whose errors it is measured for"
    taps = tuple(axis.kernel for axis in conv.axes)
    if conv.dims != 2 or taps[0] not in ROWS or not LEAST <= taps[1] <= MOST:
        return f"takes 7, 8 or 11 rows of {LEAST} to {MOST} taps"
    if any((axis.stride, axis.dilation, axis.up) != (1, 1, 1) for axis in conv.axes):
        return "takes no stride and no dilation"
    if conv.co < target.lanes(conv.dtype):
        return f"takes {target.lanes(conv.dtype)} channels or more; here {conv.co}"
    return None


def plans(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """One plan."""
    columns = TILES[target.vector_bytes, target.registers]
    form = (*form_of(conv), 0)
    return (Plan(name, conv.dtype, packed, blocked, columns, 1, alignment=4, form=form),)


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Modelled cycles of one core for one image: products at 1.6 a cycle, points at 20 cycles for
    seven, 13 for four outputs, two for a vector of pixels that is transposed on its way (Zen 3:
    15, 7 and 3.2 of the 29 cycles a vector of 7x7 96@56). With AVX-512 a quarter more (96@56
    channels-last 0.116 ms, konv.kernels.pencils 0.110, 64@112 0.43 and 0.37; 11x11 0.182 and 0.230,
    0.60 and 0.67; Granite Rapids).
    """
    rows, columns = -(-conv.axes[0].out // 4), conv.axes[1].out
    high, wide = (axis.kernel for axis in conv.axes)
    deep = -(-high // 4)
    each = (POINTS * deep - (high % 4 == 3)) * wide
    products = each * rows * -(-columns // plan.pixels) * plan.pixels / 2
    points = 20 * (rows + deep - 1) * (columns + wide - 1)
    layouts = (plan.packed + plan.blocked) * prod(axis.out for axis in conv.axes) * 2
    cycles = products * 5 / 4 + points + 13 * rows * columns + layouts
    cycles *= 5 / 4 if target.vector_bytes == 64 else 1
    return -(-conv.co // target.lanes(conv.dtype)) * cycles


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """Bands of rows of tiles, and vectors of channels, such that each thread has some; those that
    share a line of the cache are of one unit.
    """
    lanes, size = target.lanes(conv.dtype), BYTES[conv.dtype]
    if conv.exact_macs < schedule.ALONE:
        threads = 1
    lines = -(-conv.co // lanes)
    wanted = UNITS * threads if threads > 1 else 1
    chunk = 1 if plan.packed else max(1, LINE // (lanes * size))
    chunks = -(-lines // chunk)
    out = conv.axes[0].out
    bands = max(1, min(-(-wanted // (2 * conv.n * chunks)), out // 16))
    box = min(out, -(-out // (4 * bands)) * 4)
    words = dict.fromkeys(JOB, 0)
    words |= {
        "units": chunks * conv.n * -(-out // box), "chunks": chunks, "chunk": chunk,
        "lines": lines, "channels": conv.co, "multiplier": 1, "mode": MODES[conv.mode],
        "dense": int(x[1] == 1),
        "x_batch": x[0], "x_channel": x[1], "y_batch": y[0], "y_channel": y[1],
        "out0": 1, "box0": 1, "boxes0": 1, "size0": 1,
    }  # fmt: skip
    for a, (axis, length) in enumerate(zip(conv.axes, (box, conv.axes[1].out), strict=True), 1):
        words |= {
            f"size{a}": axis.size, f"lo{a}": axis.lo, f"out{a}": axis.out,
            f"x_stride{a}": x[1 + a], f"y_stride{a}": y[1 + a],
            f"box{a}": length, f"boxes{a}": -(-axis.out // length),
        }  # fmt: skip
    parts = {part: numbers * size for part, numbers in _parts(conv, plan, lanes, chunk).items()}
    words["thread_bytes"] = scratch.lay_out(words, parts)
    return Work(list(words.values()), threads, words["thread_bytes"])


def _parts(conv: Conv, plan: Plan, lanes: int, chunk: int) -> dict[str, int]:
    """The parts of a thread's scratch, in numbers."""
    (high, wide), columns = (axis.kernel for axis in conv.axes), conv.axes[1].out
    pitch = -(-columns // plan.pixels) * plan.pixels + wide - 1
    return {
        "at_strip": RING * (columns + wide - 1) * lanes,
        "at_tiles": chunk * POINTS * -(-high // 4) * pitch * lanes,
        "at_block": 4 * columns * lanes if plan.blocked else 0,
    }


def packing(conv: Conv, plan: Plan, target: Target) -> Packing:
    """Every vector's blocks transformed, then all biases."""
    lanes = target.lanes(plan.dtype)
    high, wide = (axis.kernel for axis in conv.axes)
    numbers = -(-conv.co // lanes) * lanes * (POINTS * -(-high // 4) * wide + 1)
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
    return emit_run(module, plan, emit_lines(module, plan))
