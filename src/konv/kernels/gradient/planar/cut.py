"""How the weight gradients of konv.kernels.gradient.planar are cut: boxes and parts as those of
konv.kernels.gradient.cut, units of whole groups.
"""

from __future__ import annotations

from math import prod

from konv.geometry import Conv
from konv.kernels.gradient import cut as gradient_cut
from konv.kernels.gradient.boxes import Boxes, whole
from konv.kernels.gradient.cut import Sizes, Work, complete
from konv.kernels.stored import HALVES
from konv.plan import Plan, Strides
from konv.target import COMPUTED, Target

# Outputs of a box: rows and dy of a channel stay in the first-level cache. Fewer where channels
# stand last in memory, so that a unit reads many of them.
OUTPUTS, OUTPUTS_LAST = 1024, 256
TOGETHER = 16  # groups
GROUPS = 2**16  # numbers of strip and dy of a unit, 256 KB


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """The work of a layer under such a plan, for x and dy with these strides."""
    lanes, size = target.lanes(plan.dtype), COMPUTED[plan.dtype]
    most = OUTPUTS if plan.packed and plan.blocked else OUTPUTS_LAST
    boxes = Boxes.of(conv, most, 2 * most)
    lines, ci, co = boxes.lines, conv.ci // conv.groups, conv.co // conv.groups
    if conv.exact_macs < gradient_cut.ALONE:
        threads = 1
    along = [[line.slot(source) for source in line.phases[0].sources] for line in lines]
    stride, across = lines[2].jump, -(-lines[2].box // lanes) * lanes
    half = max(-(-lines[2].slots // stride), max(w // stride for w in along[2]) + across)
    half = -(-half // lanes) * lanes
    pitch = stride * half
    face = lines[1].slots * pitch
    volume = lines[0].slots * face
    plane, panel = boxes.images * volume, boxes.images * lines[0].box * lines[1].box * across
    rows = -(-ci * prod(axis.kernel for axis in conv.axes) // plan.pixels) * plan.pixels
    sums = rows * -(-co // plan.vectors) * plan.vectors
    chunks = _chunks(conv, boxes.parts, ci * plane + co * panel, threads)
    each = -(-conv.groups // chunks)
    if not (plan.packed and plan.blocked):  # whole cache lines of channels
        each = min(-(-each // TOGETHER) * TOGETHER, conv.groups)
    chunks = -(-conv.groups // each)
    words = {
        "units": boxes.parts * chunks, "ranges_co": chunks, "groups_each": each,
        "pitch": pitch, "face": face, "volume": volume, "plane": plane, "half": half,
        "panel": panel, "padded_rows": sums,
        "in_place": int(_in_place(conv, plan, boxes, lanes, y)),
    }  # fmt: skip
    parts = {
        "at_pixels": panel // lanes * 8,
        "at_strip": each * ci * plane * size,
        "at_panel": each * co * panel * size,
        "at_sums": each * sums * lanes * size,
    }
    dealt = [w % stride * half + w // stride for w in along[2]]
    places = [d * face + h * pitch + w for d in along[0] for h in along[1] for w in dealt]
    return complete(conv, Sizes(boxes, words, parts, places), x, y, threads)


def _in_place(conv: Conv, plan: Plan, boxes: Boxes, lanes: int, y: Strides) -> bool:
    """Whether dy can be read as it lies: contiguous rows of whole vectors, one after another."""
    lines = boxes.lines
    if not plan.blocked or conv.dtype in HALVES or lines[2].count % lanes or boxes.images > 1:
        return False
    axes = whole(lines, (*(0,) * (3 - conv.dims), *y[2:]))
    return axes == 2 or (axes == 1 and lines[0].box == 1)


def _chunks(conv: Conv, parts: int, numbers: int, threads: int) -> int:
    """Of groups: as many as fit a cache, enough for all threads to finish together, and as few."""
    fewest = max(-(-conv.groups * numbers // GROUPS), -(-2 * threads // parts))
    return min(conv.groups, -(-fewest // threads) * threads)
