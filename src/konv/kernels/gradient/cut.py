"""How the boxes and parts of a weight gradient (konv.kernels.gradient.boxes) become units.

Which channels a unit takes changes no sum: that is for the threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod

from konv.geometry import Conv
from konv.kernels import scratch
from konv.kernels.gradient.boxes import Boxes, whole
from konv.kernels.gradient.records import JOB
from konv.kernels.lines import Line
from konv.kernels.stored import HALVES
from konv.plan import Plan, Strides
from konv.target import COMPUTED, Target

PANEL = 28 * 1024  # bytes of a box's panel, for one block of channels: a first-level cache
STRIP = 2**18  # numbers of a strip, 1 MB: beyond, a unit takes fewer input channels
SUMS = 2**18  # numbers of a unit's sums likewise, then fewer output channels
OUTPUTS_OF_PART = 256  # at least: adding up the parts costs 2 % then
ALONE = 60_000  # multiply-adds below which a second thread costs more than it brings
PIECE = 2**13  # numbers that a unit adds up
TURNED, COPIED = 0.7, 0.6  # cycles a number: of dy into panels, of x into strips
CHOICES = 64  # ranges of channels considered


@dataclass(frozen=True, slots=True)
class Work:
    """The words of the first run and of those after it, threads worth waking, bytes of scratch in
    all.
    """

    words: list[int]
    then: list[list[int]]
    threads: int
    scratch: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """How a layer is cut, its words, the parts of a thread's scratch, and where each tap of the
    kernel reads in a strip, counted from an output's first.
    """

    boxes: Boxes
    words: dict[str, int]
    parts: dict[str, int]
    places: list[int]


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """The work of a layer under a plan of konv.kernels.gradient, for x and dy with these
    strides.
    """
    if conv.exact_macs < ALONE:
        threads = 1
    return complete(conv, sizes(conv, plan, target, x, y, threads), x, y, threads)


def sizes(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Sizes:
    """Those of such a plan."""
    lanes, size = target.lanes(plan.dtype), COMPUTED[plan.dtype]
    boxes = Boxes.of(conv, PANEL // (plan.vectors * target.vector_bytes), OUTPUTS_OF_PART)
    lines, taps = boxes.lines, prod(axis.kernel for axis in conv.axes)
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    pitch, face, volume = (prod(line.slots for line in lines[a:]) for a in (2, 1, 0))
    plane = boxes.images * volume + lanes
    vectors = -(-co // lanes)
    full = (vectors - plan.tail) // plan.vectors
    blocks, width = full + (plan.tail > 0), plan.vectors * lanes
    ranges_co, ranges_ci = _ranges(conv, plan, boxes, blocks, width, plane, threads)
    blocks_each, ci_each = -(-blocks // ranges_co), _even(-(-ci // ranges_ci), taps, plan.pixels)
    ranges_co, ranges_ci = -(-blocks // blocks_each), -(-ci // ci_each)
    ci_each = min(ci_each, ci)
    rows = -(-ci_each * taps // plan.pixels) * plan.pixels
    pixels = boxes.images * prod(line.box for line in lines)
    along = [[line.slot(source) for source in line.phases[0].sources] for line in lines]
    words = {
        "units": boxes.parts * conv.groups * ranges_co * ranges_ci,
        "blocks": full, "tail": plan.tail,
        "ranges_co": ranges_co, "blocks_each": blocks_each,
        "ranges_ci": ranges_ci, "ci_each": ci_each,
        "in_a_row": int(not lines[2].sparse),
        "pitch": pitch, "face": face, "volume": volume, "plane": plane,
        "whole": whole(lines, (*(0,) * (3 - conv.dims), *y[2:])), "padded_rows": rows,
        "x_whole": 0 if plan.packed else _x_whole(conv, lines, x),
    }  # fmt: skip
    parts = {
        "at_pixels": pixels * 8,
        "at_strip": ci_each * plane * size,
        "at_panel": blocks_each * pixels * width * size,
        "at_sums": blocks_each * rows * width * size,
    }
    places = [d * face + h * pitch + w for d in along[0] for h in along[1] for w in along[2]]
    return Sizes(boxes, words, parts, places)


def complete(conv: Conv, sizes: Sizes, x: Strides, y: Strides, threads: int) -> Work:
    """With the words and parts that all kernels of weight gradients share."""
    apart, boxes = {}, sizes.boxes
    if boxes.parts > 1 or conv.dtype in HALVES:
        apart["partial"] = boxes.parts * conv.params * COMPUTED[conv.dtype]
    words, tables, in_all = fill(
        conv, boxes, sizes.words, sizes.parts, apart, sizes.places, x, y, threads
    )
    then = []
    if apart:
        units = -(-conv.params // PIECE)
        then = [[*(words | {"units": units, "adding": 1}).values(), *tables]]
    return Work([*words.values(), *tables], then, threads, in_all)


def fill(
    conv: Conv,
    boxes: Boxes,
    words: dict[str, int],
    parts: dict[str, int],
    apart: dict[str, int],
    places: list[int],
    x: Strides,
    y: Strides,
    threads: int,
) -> tuple[dict[str, int], list[int], int]:
    """All words of a job, the tables behind them, and bytes of scratch: `parts` of each thread,
    behind them what lies `apart`, for all threads together.
    """
    words, tables = describe(conv, boxes, words, places, x, y)
    in_all = lay_out(words, slots(boxes) | parts, apart, threads)
    return words, tables, in_all


def slots(boxes: Boxes) -> dict[str, int]:
    """Bytes of the tables of slots."""
    return {f"at_slots{a}": line.slots * 8 for a, line in enumerate(boxes.lines)}


def lay_out(
    words: dict[str, int], parts: dict[str, int], apart: dict[str, int], threads: int
) -> int:
    """Place all scratch; returns its bytes."""
    words["thread_bytes"] = scratch.lay_out(words, parts)
    in_all = words["thread_bytes"] * threads
    if apart:
        length = scratch.lay_out(words, apart)
        words |= {name: words[name] + in_all for name in apart}
        in_all += length
    return in_all


def describe(
    conv: Conv, boxes: Boxes, words: dict[str, int], places: list[int], x: Strides, y: Strides
) -> tuple[dict[str, int], list[int]]:
    """All words of a job but those of scratch, and the tables behind them."""
    lines = boxes.lines
    words = dict.fromkeys(JOB, 0) | words
    words |= {
        "piece": PIECE, "numbers": conv.params, "parts": boxes.parts, "boxes": boxes.count,
        "images": boxes.images, "n": conv.n, "groups": conv.groups,
        "ci": conv.ci // conv.groups, "co": conv.co // conv.groups,
        "taps": prod(axis.kernel for axis in conv.axes), "at_taps": len(JOB),
        "x_batch": x[0], "x_channel": x[1], "y_batch": y[0], "y_channel": y[1],
    }  # fmt: skip
    tables, missing = list(places), (0,) * (3 - conv.dims)
    strides = zip((*missing, *x[2:]), (*missing, *y[2:]), strict=True)
    for a, (line, (x_stride, y_stride)) in enumerate(zip(lines, strides, strict=True)):
        words |= {
            f"size{a}": line.axis.size, f"x_stride{a}": x_stride, f"y_stride{a}": y_stride,
            f"count{a}": line.count, f"box{a}": line.box, f"axis_boxes{a}": line.boxes,
            f"jump{a}": line.jump, f"least{a}": line.least, f"ahead{a}": line.ahead,
            f"first_slots{a}": line.first_slots, f"at_raws{a}": len(JOB) + len(tables),
        }  # fmt: skip
        tables += line.raws()
    return words, tables


def _x_whole(conv: Conv, lines: list[Line], x: Strides) -> int:
    """The same of pixels, where each output reads its own and no other."""
    if any((a.kernel, a.stride, a.lo, a.size) != (1, 1, 0, a.out) for a in conv.axes):
        return 0
    return whole(lines, (*(0,) * (3 - conv.dims), *x[2:]))


def _even(channels: int, taps: int, mr: int) -> int:
    """About so many channels, whose rows fill tiles."""
    step = mr // gcd(mr, taps)
    return -(-channels // step) * step


def _ranges(
    conv: Conv, plan: Plan, boxes: Boxes, blocks: int, width: int, plane: int, threads: int
) -> tuple[int, int]:
    """Ranges of output and of input channels: the cheapest pair that fits.

    Cycles of a core: 16 multiply-adds each, x copied once for each range of output channels, dy
    turned once for each of input channels; times what threads wait for the last of them.
    """
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    taps = prod(axis.kernel for axis in conv.axes)
    outputs = conv.n * prod(line.count for line in boxes.lines)
    slots = boxes.count * boxes.images * prod(line.slots for line in boxes.lines)
    best: tuple[float, int, int] | None = None
    for in_co in range(1, min(blocks, CHOICES) + 1):
        for in_ci in range(1, min(ci, CHOICES) + 1):
            each_co, each_ci = -(-blocks // in_co), -(-ci // in_ci)
            strip, sums = each_ci * plane, each_co * each_ci * taps * width
            count_co, count_ci = -(-blocks // each_co), -(-ci // each_ci)
            units = boxes.parts * conv.groups * count_co * count_ci
            rows = -(-each_ci * taps // plan.pixels) * plan.pixels * count_ci
            cycles = outputs * rows * blocks * width / 16
            cycles += slots * ci * COPIED * count_co + outputs * co * TURNED * count_ci
            waits = -(-units // threads) * threads / units
            too_much = max(1.0, strip / STRIP) * max(1.0, sums / SUMS)
            price = cycles * waits * too_much
            if best is None or price < best[0]:
                best = price, in_co, in_ci
    assert best is not None
    return best[1:]
