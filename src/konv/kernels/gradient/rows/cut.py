"""How a weight gradient of konv.kernels.gradient.rows is cut into boxes, parts and units."""

from __future__ import annotations

from math import prod

from konv.geometry import ONE, Axis, Conv
from konv.kernels.gradient import cut as gradient_cut
from konv.kernels.gradient.boxes import Boxes
from konv.kernels.gradient.cut import Sizes, Work, complete
from konv.kernels.gradient.rows.tile import Form, entry_words
from konv.kernels.lines import Line
from konv.plan import Plan, Strides
from konv.target import COMPUTED, Target

OUTPUTS = 2**14  # of a box: a channel of most layers, which is read as it lies in memory
NEAR = 16 * 1024  # bytes of x under the rows of a band, which wait for the next pass
ENOUGH = 16  # units of work; of fewer channels several parts are made
OUTPUTS_OF_PART = 2048  # at least
UNITS = 8  # of each thread: the last to finish is waited for


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """The work of a layer under a plan of konv.kernels.gradient.rows, for x and dy with these
    strides.
    """
    lanes, size = target.lanes(plan.dtype), COMPUTED[plan.dtype]
    form = Form.of(plan, lanes)
    if conv.exact_macs < gradient_cut.ALONE:
        threads = 1
    axes = (ONE,) * (3 - conv.dims) + conv.axes
    taps = prod(axis.kernel for axis in axes)
    boxes = _boxes(conv, axes)
    chunks = min(conv.co, max(1, -(-UNITS * threads // boxes.parts)))
    each = -(-conv.co // chunks)
    chunks = -(-conv.co // each)
    last = axes[2]
    passes = -(-axes[1].kernel // form.rows) * -(-last.kernel // form.taps)
    band = boxes.lines[1].box
    if passes > 1:
        rows = NEAR // (last.size * size) // axes[1].stride
        band = min(band, max(1, rows // plan.pixels) * plan.pixels)
    words = {
        "units": boxes.parts * chunks, "ranges_co": chunks, "lines_each": each, "segment": band,
    }  # fmt: skip
    beside = min(
        -(-boxes.lines[2].box // lanes), (max(last.lo, 0) + max(last.hi, 0)) // form.ahead + 6
    )
    parts = {
        "at_zeros": last.size * size,
        "at_beside": beside * entry_words(form, size) * 8,
        "at_sums": each * taps * lanes * size,
    }
    return complete(conv, Sizes(boxes, words, parts, []), x, y, threads)


def _boxes(conv: Conv, axes: tuple[Axis, ...]) -> Boxes:
    """Boxes of whole rows, if they are not endless; parts where channels are few."""
    lines, left = [Line(axis) for axis in axes], OUTPUTS
    for line in reversed(lines):
        line.cut(max(1, left))
        left //= line.box
    outputs = conv.n * prod(line.count for line in lines)
    parts = -(-ENOUGH // conv.co)
    return Boxes.over(conv, lines, left, max(OUTPUTS_OF_PART, outputs // parts))
