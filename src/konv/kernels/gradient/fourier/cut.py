"""How a weight gradient of konv.kernels.gradient.fourier is cut: tiles, and vectors of channels."""

from __future__ import annotations

from math import prod

from konv.geometry import Conv
from konv.kernels import scratch
from konv.kernels.fourier.fit import fits
from konv.kernels.fourier.lengths import length_of, pitch_of
from konv.kernels.gradient import cut as gradient_cut
from konv.kernels.gradient import records
from konv.kernels.gradient.cut import Work
from konv.kernels.strips.job import JOB
from konv.plan import Plan, Strides
from konv.target import COMPUTED, Target


def outputs_of(conv: Conv, plan: Plan) -> list[int]:
    """Outputs of a tile, along each axis: all of them where a transform holds the image."""
    length = length_of(plan).all
    if fits(conv, length):
        return [axis.out for axis in conv.axes]
    return [length - axis.kernel + 1 for axis in conv.axes]


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """The work of a layer under a plan of konv.kernels.gradient.fourier, for x and dy with these
    strides: behind the job's own words those of x, whose outputs are taps of the weight, and of dy,
    as konv.kernels.strips has them.
    """
    if conv.exact_macs < gradient_cut.ALONE:
        threads = 1
    lanes, size = target.lanes(plan.dtype), COMPUTED[plan.dtype]
    units = -(-conv.co // lanes)
    head = dict.fromkeys(records.JOB, 0) | {"units": units, "n": conv.n}
    job = dict.fromkeys(JOB, 0)
    job |= {
        "channels": conv.co, "size0": 1, "out0": 1,
        "x_batch": x[0], "x_channel": x[1],
        "y_channel": prod(axis.kernel for axis in conv.axes), "y_stride1": conv.axes[1].kernel,
        "y_stride2": 1,
    }  # fmt: skip
    parts = {part: numbers * size for part, numbers in _parts(plan, lanes).items()}
    job["thread_bytes"] = scratch.lay_out(job, parts)
    head["thread_bytes"] = job["thread_bytes"]
    dy = job | {"x_batch": y[0], "x_channel": y[1]}
    for a, (axis, tile) in enumerate(zip(conv.axes, outputs_of(conv, plan), strict=True), start=1):
        boxes = {f"out{a}": axis.out, f"box{a}": tile, f"boxes{a}": -(-axis.out // tile)}
        job |= boxes | {f"size{a}": axis.size, f"lo{a}": axis.lo, f"x_stride{a}": x[1 + a]}
        dy |= boxes | {f"size{a}": axis.out, f"x_stride{a}": y[1 + a]}
    words = [*head.values(), *job.values(), *dy.values()]
    return Work(words, [], threads, threads * job["thread_bytes"])


def _parts(plan: Plan, lanes: int) -> dict[str, int]:
    """The parts of a thread's scratch, in numbers."""
    length = length_of(plan)
    tile = length.bins * pitch_of(plan) * lanes
    return {
        "at_strip": length.all * lanes,
        "at_between": 4 * length.all * lanes,
        "at_tiles": tile,
        "at_others": tile,
        "at_sums": tile,
        "at_block": length.all * lanes,
        "at_zeros": lanes,
    }
