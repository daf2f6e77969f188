"""How a layer of one tap is cut into units, and what they cost: konv.kernels.panels."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

from konv.geometry import ONE, Conv
from konv.kernels import scratch
from konv.kernels.schedule import ALONE, flat
from konv.plan import Plan, Strides, Work
from konv.target import BYTES, Target

JOB: tuple[str, ...] = (
    "units",  # pieces of work, handed out to the threads one by one
    "chunks", "parts",  # of all output channels, and of those of a group
    "chunk", "rows",  # output channels of a unit; those computed before the next panel
    "boxes", "box",  # of a row of pixels: units, and pixels in each; the last may have more
    "high", "deep", "length",  # rows of pixels of an image, on two axes, and pixels in each
    "ci", "co",  # of a group
    "panel",  # numbers from a panel to the next
    "far",  # 1 if images and places of results come from memory and are asked for in advance
    "runs",  # 1 if all panels of a unit are filled first, channel by channel
    "x_batch", "x_channel", "x0", "x1", "x2", "y_batch", "y_channel", "y0", "y1",  # in elements
    "at_panels",  # bytes into the thread's scratch
    "thread_bytes",
)  # fmt: skip

# What weights begin with, of any making: word 0 as of konv.kernels.pack, addresses of the rows of
# the weight and of the biases, numbers from a row to the next.
HEAD = ("finite", "rows", "biases", "row")

# Prices in cycles, as konv.kernels.cut has them: of a unit; of a tile, its sums begun and stored;
# of a vector copied into a panel; bytes a cycle of weights that a core's second-level cache does
# not hold from one unit to the next.
UNIT, TILE, COPIED, STREAMED = 300, 25, 1.5, 5
FIRST = 2.5  # cycles more of a vector that comes from the last cache
# Bytes of a unit's panels, if they are more than one: what the first-level cache half holds is
# filled fastest (96 -> 24 @56: 0.107 ms, with 200 KB 0.112, Zen 3).
ROOM = 64 * 1024
# Planes of which a pixel's numbers share few sets of the caches, multiples of so many bytes. What
# a panel leaves of a line, in the image and the output, is gone until the next panel asks for it:
# where they come from memory, all panels of a unit, of twice the room, are filled first, and rows
# of the output written along all of them (two threads, Zen 3: 16->64@256 2.4 times as fast,
# 131->20@128x256 1.5, 256->64@128 1.2; 8 of 16->96@112 1.45, of 32->16@112 1.5; 1.0 to 1.1 at
# 64 x 64. Other planes .92 to 1.05, and from nearer .9 to 1.05: panels come from further away).
SAME_SETS = 1024
# Bytes of images from which on they and places of results are asked for in advance: 4 of 64@56,
# 6 MB, 1.02 to 1.2 times as fast, 3 MB and less .94 to 1.0; 8 of 16->96@112 1.16, 96->24@56 1.2,
# 240->240@28 in 3 groups 1.2, 128->512@28 1.04 (Zen 3).
FAR = 5 * 1024 * 1024
EFFICIENCY = 0.92  # of the peak, as direct's model has it
NARROW = 0.8  # cycles for each row of a tile of one vector with AVX-512: 62 % of the peak
ROWS = 10.0  # cycles more of a tile for each row beyond six, whose results go to other planes
CHUNKS = (1, 2, 4, 8, 16, 32)
MOST = 64  # units that a row of pixels is cut into, beyond what caches ask for


@dataclass(frozen=True, slots=True)
class _Shape:
    """What prices are made of: channels of a group, vectors of pixels in a row, rows of pixels of
    all images and groups; bytes that a unit's panels may take.
    """

    ci: int
    co: int
    vectors: int
    rows: int
    room: int


def row_numbers(ci: int, size: int) -> int:
    """Numbers from a row of packed weights to the next: whole cache lines, an odd number of them,
    so that rows do not share few sets of a cache.
    """
    line = scratch.LINE // size
    return (-(-ci // line) | 1) * line


def cycles(plan: Plan, ci: int, co: int, vectors: int) -> float:
    """Cycles of `co` output channels of a row of so many vectors of pixels."""
    (mr, few, *ends), nv = plan.form, plan.vectors
    full, rest = divmod(vectors, nv)
    narrow = NARROW * few if ends else (few + 1) / 2
    tiles: list[tuple[int, int, float]] = [(full, mr, mr * nv / 2), (rest, few, narrow)]
    if full and 0 < rest <= joined(plan):
        rows = ends[rest - 1]
        tiles = [(full - 1, mr, mr * nv / 2), (1, rows, rows * (nv + rest) / 2)]
    begun = TILE + ROWS * max(0, mr - 6)
    sums = sum(
        times * -(-co // rows) * (ci * max(each, 4) / EFFICIENCY + begun)
        for times, rows, each in tiles
    )
    return sums + COPIED * ci * vectors


def joined(plan: Plan) -> int:
    """Vectors that a row of pixels may have left beyond whole panels for its last one to take."""
    return max(0, len(plan.form) - 2)


def cut(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """The work of a layer: its units are boxes of a row of pixels by chunks of output channels."""
    if conv.exact_macs < ALONE:
        threads = 1
    size, lanes = BYTES[plan.dtype], target.lanes(plan.dtype)
    numbers = conv.n * (conv.ci + conv.co)
    for axis in conv.axes:
        numbers *= axis.out
    conv, x, y = flat(conv, x, y)
    deep, high, last = (ONE,) * (3 - len(conv.axes)) + conv.axes
    x = x[:2] + (0,) * (5 - len(x)) + x[2:]
    y = y[:2] + (0,) * (5 - len(y)) + y[2:]
    ci, co, length = conv.ci // conv.groups, conv.co // conv.groups, last.out
    far = numbers * size >= FAR
    runs = far and x[4] == 1 and x[1] * size % SAME_SETS == 0
    shape = _Shape(ci, co, -(-length // lanes), conv.n * deep.out * high.out, ROOM << runs)
    box, chunk = _cheapest(shape, plan, target, conv.groups, threads)
    row, pixels = row_numbers(ci, size), min(box * lanes, shape.vectors * lanes)
    boxes, largest = _boxes(shape, plan, box)
    parts = -(-co // chunk)
    panel = ci * plan.pixels + scratch.LINE // size
    some = lcm(*plan.form)  # whole tiles of either kind
    words = dict.fromkeys(JOB, 0) | {
        "units": conv.n * deep.out * high.out * boxes * parts * conv.groups,
        "chunks": parts * conv.groups, "parts": parts, "chunk": chunk,
        "rows": max(some, target.l2 // 4 // (row * size) // some * some),
        "boxes": boxes, "box": pixels, "high": high.out, "deep": deep.out, "length": length,
        "ci": ci, "co": co, "panel": panel,
        "far": far, "runs": runs,
        "x_batch": x[0], "x_channel": x[1], "x0": x[2], "x1": x[3], "x2": x[4],
        "y_batch": y[0], "y_channel": y[1], "y0": y[2], "y1": y[3],
    }  # fmt: skip
    full, rest = divmod(max(-(-pixels // lanes), largest), plan.vectors)
    parts_of = {"at_panels": (full * panel + rest * ci * lanes) * size}
    words["thread_bytes"] = scratch.lay_out(words, parts_of)
    return Work([int(words[name]) for name in JOB], threads, words["thread_bytes"])


def _boxes(shape: _Shape, plan: Plan, box: int) -> tuple[int, int]:
    """How many boxes a row of pixels is cut into, and the vectors of the last one: what would fill
    no panel makes the one before larger, where there are tiles for that.
    """
    boxes = max(1, -(-shape.vectors // box))
    last = shape.vectors - (boxes - 1) * box
    if boxes > 1 and 0 < last <= joined(plan) < plan.vectors <= box and box % plan.vectors == 0:
        return boxes - 1, last + box
    return boxes, last


def _cheapest(
    shape: _Shape, plan: Plan, target: Target, groups: int, threads: int
) -> tuple[int, int]:
    """Vectors of a box, output channels of a chunk."""
    found: dict[tuple[int, int], float] = {}
    mr, size = plan.form[0], BYTES[plan.dtype]
    most = max(1, shape.room // (shape.ci * target.lanes(plan.dtype) * size))
    fewest = -(-shape.vectors // max(most, plan.vectors))
    for boxes in range(fewest, min(shape.vectors, fewest + MOST) + 1):
        even = -(-shape.vectors // boxes)
        for box in {even, -(-even // plan.vectors) * plan.vectors}:
            for chunks in CHUNKS:
                each = -(-shape.co // chunks)
                chunk = -(-each // mr) * mr
                if (box, chunk) not in found:
                    found[box, chunk] = _price(shape, plan, target, groups, threads, box, chunk)
    return min(found, key=lambda each: found[each])


def _price(
    shape: _Shape, plan: Plan, target: Target, groups: int, threads: int, box: int, chunk: int
) -> float:
    """Cycles from the first to the last unit, on all threads. The first one's image is not asked
    for while another is computed.
    """
    size, (boxes, last) = BYTES[plan.dtype], _boxes(shape, plan, box)
    each: float = UNIT
    if shape.ci * shape.co * groups * size > target.l2 * 3 // 4:
        each += shape.ci * chunk * size / STREAMED
    unit = cycles(plan, shape.ci, chunk, min(box, shape.vectors)) + each
    end = cycles(plan, shape.ci, chunk, last) + each
    mean = (unit * (boxes - 1) + end) / boxes
    units = boxes * -(-shape.co // chunk) * groups * shape.rows
    first = FIRST * shape.ci * min(box, shape.vectors)
    rounds = -(-units // threads)
    if rounds <= 2:
        return (rounds - 1) * unit + max(unit, end) + first
    # Threads help one another: the last round is rarely whole.
    return (rounds + units / threads) / 2 * mean + first
