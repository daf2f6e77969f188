"""What depthwise layers cost on konv.kernels.strips, for the choice among plans and algorithms."""

from __future__ import annotations

from math import prod

from konv.geometry import ONE, Conv
from konv.kernels import schedule
from konv.kernels.strips.form import FEW, TALL, Form, at_hand, banded, copies
from konv.kernels.strips.interlaced import as_plane
from konv.plan import Plan
from konv.target import BYTES, Target

STRIP = 256 * 1024  # bytes, of half a second-level cache
SHORT = 4  # taps of a column, beyond which tiles are taller where there are 32 registers
# Times that tiles of taps in three axes take beside the model (3x3x3 1->16@32x64x64 .75 ms, planar
# .59; 54@16x28x28 .35 and .69; Emerald Rapids).
DEEP = 1.9
# The same of several filters of one channel in steps of two, each of which takes the columns apart,
# of more than three taps a row (1->32 5x5 s2 @256 .29 ms, planar .12, @64 24 and 19 us, 3x3 @64 10
# and 15; AVX2 code .33 and .20, 27 and 18, 13 and 13; Emerald Rapids).
EACH_APART = 2.0
SLID = 7  # rows of the tiles that stand for vectors that slide, and for bands in their place
# Columns from which on bands of rows go along, where others slide down or go by tiles: of volumes,
# of few taps whose images come from memory, of others. Zen 3, two threads, so many times as fast:
# 3x3 16@208 1.13, 32@256 1.6, 96@112 1.35, 64@128 d4 1.3, s2 64@224 1.45, 256@128 1.2; 64@112 .98,
# 192@80 .88, 144@56 .8 (eight too), 192@28 .6; 3x3x3 54@16x56x56 1.9, 108@16x28x28 1.6, s2
# 96@8x32x32 1.2, but 96@8x24x24 .98; 5x5 32@256 1.3, 3@1080x1920 1.2, but 96@112 .9.
DEEP_BROAD, FAR_BROAD, BROAD = 28, 96, 160


def cycles(conv: Conv, plan: Plan, target: Target) -> float:
    """Cycles of one core for one image: two multiply-adds and two loads of whole registers a cycle,
    a sixth more for guards and stores; or moving the arrays once, 8 bytes a cycle.
    """
    form = Form.of(plan, target.lanes(conv.dtype))
    conv = as_plane(conv) if form.beside else conv
    axes = (ONE,) * (3 - len(conv.axes)) + conv.axes
    out, u = [axis.out for axis in axes], form.along
    if copies(plan):
        return max(_turned(conv, form, out), moved(conv))
    rows = plan.pixels
    if banded(plan):  # as many as the tiles have in whose place they go (konv.kernels.planes)
        rows = 2 * SLID if target.registers == 32 and form.kernel[u] > SHORT else SLID
    tiles = out[0] * -(-out[u] // rows) * (conv.co if form.planes else 1)
    wide = plan.vectors * form.lanes
    tiles *= -(-out[2] // wide) if form.planes else out[1] * -(-conv.co // form.lanes)
    outer = form.kernel[0] * form.kernel[form.across]
    adds = rows * plan.vectors * form.kernel[u]
    held = form.kernel[u] <= FEW or plan.vectors == 1
    weights = form.kernel[u] if held else adds / plan.vectors
    # In planes two loads of three cross a cache line, which is two accesses.
    loads = len(form.uses(rows)) * plan.vectors * (5 / 3 if form.planes else 1)
    compute = tiles * outer * max(adds, loads + weights) / 2 * 7 / 6
    if target.vector_bytes == 64 and form.planes and form.kernel[0] > 1:
        compute *= DEEP
    if conv.ci == 1 < conv.co and axes[2].stride > 1 and axes[2].kernel > 3:
        compute *= EACH_APART
    if not form.direct or (plan.packed and not form.planes):
        compute += _filled_again(conv, form, out)
    found = max(compute, moved(conv))
    if banded(plan):
        least = FAR_BROAD if at_hand(plan) and _far(conv) else BROAD
        least = DEEP_BROAD if form.kernel[0] > 1 else least
        found *= 0.9 if axes[2].size >= least else 1.1
    return found


def _filled_again(conv: Conv, form: Form, out: list[int]) -> float:
    """What strips hold more than once where a few outputs read more than a second-level cache has,
    2 cycles a vector: 128@160 of 11x11 taps in steps of four, dilated by 8, takes 13 ms from strips
    of three by three outputs, in konv.kernels.planar 1.0 (Zen 3).
    """
    lanes = 1 if form.planes else form.lanes
    room, box = STRIP // (lanes * BYTES[conv.dtype]), list(out)

    def slots(outputs: list[int]) -> int:
        return prod(form.slots(axis, n) for axis, n in enumerate(outputs))

    while slots(box) > room and max(box) > 1:
        axis = max((a for a in range(3) if box[a] > 1), key=lambda a: box[a] / form.extent(a))
        box[axis] = -(-box[axis] // 2)
    boxes = prod(-(-n // each) for n, each in zip(out, box, strict=True))
    return 2 * conv.co / form.lanes * (boxes * slots(box) - slots(out))


def _far(conv: Conv) -> bool:
    """Whether one image and its results come from memory and go there."""
    return moved(conv) * 8 >= schedule.FAR


def _turned(conv: Conv, form: Form, out: list[int]) -> float:
    """The same of outputs that take turns: eight multiply-adds a tap and tile, and 2.25 cycles a
    vector that is copied (7x7 96@56). Rows of 7 columns took 1.3 times as long as other tiles.
    """
    tiles = min(-(-out[1] // tall) for tall in TALL) * -(-out[2] // form.lanes)
    slots = [form.slots(axis, n) for axis, n in enumerate(out)]
    copied = slots[0] * slots[1] * -(-slots[2] // form.lanes)
    narrow = 2 if out[2] <= form.lanes else 1
    return conv.co * (out[0] * tiles * max(TALL) * prod(form.kernel) / 2 + copied * 2.25) * narrow


def moved(conv: Conv) -> float:
    """Cycles of one core that move the arrays of one image once, 8 bytes a cycle."""
    pixels = (prod(axis.size for axis in conv.axes), prod(axis.out for axis in conv.axes))
    return (conv.ci * pixels[0] + conv.co * pixels[1]) * BYTES[conv.dtype] / 8
