"""How a weight gradient of konv.kernels.gradient.winograd is cut into runs, and runs into units.

V and D of a run's tiles wait in the last cache, where they should fit together with U if that fits
at all: U is read and written once a run, V and D once each. So runs are as short as U allows.

Runs and the tiles of a product decide in which order products are added up, so they depend on the
sizes of the layer and on nothing else. Which channels and points a unit takes changes no sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from konv.geometry import Conv
from konv.kernels.gradient import cut as gradient_cut
from konv.kernels.gradient.boxes import Boxes
from konv.kernels.gradient.cut import Work, fill
from konv.kernels.gradient.winograd.runs import Words, boxes_of, plane, reach, runs_of
from konv.kernels.scratch import LINE
from konv.kernels.winograd.transforms import Pair, transforms
from konv.plan import Plan, Strides
from konv.target import BYTES, Target

# Channels of a copy: of contiguous arrays such as fill a line of cache, of channels-last ones so
# many that runs of memory are long enough to be foreseen (64@56 of 8 images: 16 channels 4.3 ms,
# 32 4.1, 64 2.7, 128 3.0; contiguous 2.7, 3.2, 3.2, 3.4; Zen 3).
WIDE, WIDE_LAST = 16, 64
# Tiles of a product: V and D of a block, 16 KB, stay in the first-level cache; 64 or 256 are as
# fast. A run has more of them where V and D have less than so many bytes (64@224 channels-last, in
# ms by MB: 15.5 of 2, 15.1 of 4, 16.5 of 8, 20.3 of 16, Zen 3; 128@28 of 8 images 7.9, 7.7, 7.9,
# 8.4). Twice a run threads wait for each other, which other programs make long: so 8 rather than 4.
DEEP, POINTS = 128, 8 * 1024 * 1024
CHUNK = 32 * 1024 * 1024  # bytes of U: beyond, output channels are taken in turns
# Tiles of all images up to which U need not go to memory: a unit takes a few channels at all points
# (256@14 2.03 to 1.75 ms, 16 tiles; 64 tiles 5.5 to 5.7).
FEW = 48
LEAVING = 32  # input channels of a unit that turns U into gradients
STEPS = POINTS_OF, PRODUCTS, TAPS, BOTH = range(4)


@dataclass(frozen=True, slots=True)
class Layer:
    """What cutting asks: channels of a group in vectors, and how many products a tile has."""

    conv: Conv
    plan: Plan
    lanes: int
    threads: int
    both: Pair

    @property
    def points(self) -> int:
        return self.both[0].n * self.both[1].n

    @property
    def ci(self) -> int:
        return -(-self.conv.ci // self.conv.groups // self.lanes)

    @property
    def co(self) -> int:
        return -(-self.conv.co // self.conv.groups // self.lanes)

    @property
    def blocks(self) -> int:
        return -(-self.co // self.plan.vectors)

    def bytes(self, vectors: int) -> int:
        """Of so many vectors at each point, in all groups."""
        return self.points * self.conv.groups * vectors * self.lanes * BYTES["float32"]


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """The work of a layer under a plan of konv.kernels.gradient.winograd, for x and dy with these
    strides.
    """
    if conv.exact_macs < gradient_cut.ALONE:
        threads = 1
    both = transforms(plan)
    layer = Layer(conv, plan, target.lanes(plan.dtype), threads, both)
    each = layer.bytes(layer.ci * layer.lanes * plan.vectors)
    chunk = -(-layer.blocks // -(-layer.blocks * each // CHUNK))
    co = min(layer.co, chunk * plan.vectors)
    most = max(DEEP, POINTS // layer.bytes(layer.ci + co))
    boxes = boxes_of(conv, both, most)
    runs = list(runs_of(conv, boxes, most))
    few = len(runs) == 1 and runs[0]["tiles"] <= FEW
    own = _own(layer, runs[0]["tiles"], target) if few else 0
    words, parts, apart = _sizes(layer, boxes, max(run["tiles"] for run in runs), co, own)
    made, tables, in_all = fill(conv, boxes, words, parts, apart, [], x, y, threads)
    made["piece"] = DEEP
    for a, axis in enumerate(plane(conv), 1):
        # A tile sees zeros where no output reads.
        read = (axis.out - 1) * axis.stride + axis.extent - axis.lo
        made |= {f"size{a}": min(axis.size, max(1, read)), f"least{a}": -axis.lo}
    jobs = []
    for first in range(0, layer.blocks, chunk):
        blocks = min(chunk, layer.blocks - first)
        vectors = min(layer.co - first * plan.vectors, blocks * plan.vectors)
        made |= {"chunk": first, "vectors_co": vectors}
        jobs += [made | job for job in _jobs(layer, runs, made["wide"], own, blocks, vectors)]
    first_job, *then = [[*job.values(), *tables] for job in jobs]
    return Work(first_job, then, threads, in_all)


def _sizes(
    layer: Layer, boxes: Boxes, tiles: int, co: int, own: int
) -> tuple[Words, dict[str, int], dict[str, int]]:
    """The words that all jobs share, the parts of a thread's scratch, and those of all threads, for
    so many tiles of a run, vectors of output channels, and input channels of a unit with a U of its
    own.
    """
    conv, plan, lanes, size = layer.conv, layer.plan, layer.lanes, BYTES["float32"]
    axes = plane(conv)
    lines, groups = boxes.lines, conv.groups
    tiles |= 1  # so that vectors of a point, too, lie in different sets of a cache
    x_rows, x_pitch, dy_rows, dy_pitch = (
        reach(axis, line, t, copied, rows)
        for copied in ("inputs", "m")
        for axis, line, t, rows in zip(axes, lines[1:], layer.both, (True, False), strict=True)
    )
    most = WIDE if plan.packed and plan.blocked else WIDE_LAST
    wide = min(max(1, most // lanes), max(layer.ci, co)) * lanes
    taps, width = prod(axis.kernel for axis in conv.axes), plan.vectors * lanes
    vectors = {"v": layer.ci * tiles, "d": co * tiles, "u": 0 if own else layer.ci * lanes * co}
    numbers = {name: _odd(groups * count * lanes) for name, count in vectors.items()}
    words = {
        "blocks": layer.blocks - (plan.tail > 0), "tail": plan.tail, "wide": wide,
        "pitch": x_pitch, "volume": x_rows * x_pitch,
        "pitch_dy": dy_pitch, "volume_dy": dy_rows * dy_pitch,
        "row_tiles": lines[2].count, "image_tiles": lines[1].count * lines[2].count,
        "vectors_ci": layer.ci, "vector": tiles * lanes, "padded_rows": LEAVING * taps,
        **{f"outs{a}": axis.out for a, axis in enumerate(axes, 1)},
        **{f"dilation{a}": axis.dilation for a, axis in enumerate(axes, 1)},
        **{f"{name}_point": count for name, count in numbers.items()},
    }  # fmt: skip
    parts = {
        "at_copy": boxes.images * max(x_rows * x_pitch, dy_rows * dy_pitch) * wide * size,
        "at_sums": taps * max(LEAVING, own) * width * size,
        "at_own": layer.points * own * width * size,
    }
    apart = {f"at_{name}": layer.points * count * size for name, count in numbers.items()}
    return words, parts, apart


def _odd(numbers: int) -> int:
    """At least so many, an odd number of lines of cache: things so far apart share no set."""
    each = LINE // BYTES["float32"]
    return (-(-numbers // each) | 1) * each


def _own(layer: Layer, tiles: int, target: Target) -> int:
    """Input channels whose V, and U with a block of output channels, fill two thirds of a cache."""
    vector = layer.points * layer.lanes * BYTES["float32"]
    room = target.l2 * 2 // 3 // (vector * (tiles + layer.plan.vectors * layer.lanes))
    return -(-layer.ci // -(-layer.ci // max(1, room))) * layer.lanes


def _jobs(
    layer: Layer, runs: list[Words], wide: int, own: int, blocks: int, vectors: int
) -> Iterator[Words]:
    """The words of all runs that are not shared, in their order, for so many blocks and vectors of
    output channels.
    """
    groups, ci = layer.conv.groups, layer.conv.ci // layer.conv.groups
    for run in runs:
        in_ci, in_co = -(-layer.ci * layer.lanes // wide), -(-vectors * layer.lanes // wide)
        units = run["boxes"] * groups * (in_ci + in_co)
        yield run | {"step": POINTS_OF, "units": units, "ranges_ci": in_ci, "ranges_co": in_co}
        each = own or LEAVING
        in_ci = -(-ci // each)
        last = {
            "step": BOTH if own else TAPS, "units": groups * blocks * in_ci,
            "ranges_ci": in_ci, "ranges_co": blocks, "ci_each": each,
        }  # fmt: skip
        if not own:
            yield run | _products(layer, blocks)
        if own or run is runs[-1]:
            yield run | last


def _products(layer: Layer, blocks: int) -> Words:
    """Ranges of channels: a point's as one, unless threads would wait for each other too long."""
    together = layer.points * layer.conv.groups

    def price(cut: tuple[int, int]) -> float:
        units = together * cut[0] * cut[1]
        waits = -(-units // layer.threads) * layer.threads / units
        return waits * (1 + 0.02 * (cut[0] + 2 * cut[1]))

    cuts = [(a, b) for a in range(1, min(blocks, 8) + 1) for b in range(1, min(layer.ci, 4) + 1)]
    in_co, in_ci = min(cuts, key=price)
    each_co, each_ci = -(-blocks // in_co), -(-layer.ci // in_ci)
    in_co, in_ci = -(-blocks // each_co), -(-layer.ci // each_ci)
    return {
        "step": PRODUCTS, "units": together * in_co * in_ci, "ranges_co": in_co,
        "ranges_ci": in_ci, "blocks_each": each_co, "ci_each": each_ci * layer.lanes,
    }  # fmt: skip
