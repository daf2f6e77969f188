"""One convolution at one image size, cut into units: fills the JOB words that kernels read.

Nothing here changes a result. What a unit holds is a matter of caches: its packed image and one block's weights
shall stay in the second-level cache together, its tables in the first; and there should be four units a
thread or more, so that no thread waits long for the last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from konv.geometry import Axis, Conv
from konv.kernels.words import JOB, PHASE
from konv.plan import Plan
from konv.target import BYTES, Target

if TYPE_CHECKING:
    import numpy as np

MODES = {"zeros": 0, "reflect": 1, "replicate": 2, "circular": 3}
PIXELS = 256  # of a unit at most: enough tiles to use each block of weights often
FEWEST = 48  # pixels below which a unit is not cut further for more units
ALONE = 60_000  # multiply-adds below which waking a second thread costs more than it brings: about 3 us


@dataclass(frozen=True, slots=True)
class Job:
    """The words of a job and what must be at hand to run it; `words` stays alive with this object."""

    words: np.ndarray[Any, Any]
    address: int
    threads: int
    scratch: int


class _Line:
    """One axis, its phases and the box that units take of it."""

    def __init__(self, axis: Axis) -> None:
        self.axis = axis
        self.phases = tuple(axis.phases())
        self.count = max(phase.count for phase in self.phases)
        self.jump, self.step = self.phases[0].stride, self.phases[0].step
        reads = [source for phase in self.phases for source in phase.sources]
        self.least = min(reads, default=0)
        self.span = max(reads, default=0) - self.least
        self.reach = max(len(phase.taps) for phase in self.phases)
        self.box = self.count

    @property
    def boxes(self) -> int:
        return -(-self.count // self.box)

    @property
    def slots(self) -> int:
        return (self.box - 1) * self.jump + self.span + 1

    def cut(self, box: int) -> None:
        """Take about `box` at a time, in boxes as even as can be."""
        pieces = -(-self.count // max(1, min(box, self.count)))
        self.box = -(-self.count // pieces)


def schedule(
    conv: Conv, plan: Plan, target: Target, x_strides: tuple[int, ...], y_strides: tuple[int, ...], threads: int
) -> Job:
    """The job of `conv` under `plan`; strides in elements, (batch, channel, *spatial)."""
    import numpy as np

    lines = [_Line(Axis(1, 1))] * (3 - len(conv.axes)) + [_Line(axis) for axis in conv.axes]
    lines = [_Line(line.axis) for line in lines]
    if conv.exact_macs < ALONE:
        threads = 1
    lanes = target.lanes(plan.dtype)
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    vectors = -(-co // lanes)
    blocks, tail = divmod(vectors, plan.vectors)
    chunk_blocks = _cut(conv, plan, target, lines, blocks + (tail > 0), threads)
    chunks = -(-(blocks + (tail > 0)) // chunk_blocks)
    words = dict.fromkeys(JOB, 0)
    words |= {
        "units": chunks * conv.n * prod(line.boxes for line in lines),
        "chunks": chunks, "chunk_blocks": chunk_blocks, "mode": MODES[conv.mode],
        "groups": conv.groups, "ci": ci, "co": co, "blocks": blocks, "tail": tail,
        "taps": prod(axis.kernel for axis in conv.axes),
        "x_batch": x_strides[0], "x_channel": x_strides[1], "y_batch": y_strides[0], "y_channel": y_strides[1],
    }  # fmt: skip
    records = _axis_words(words, lines, x_strides[2:], y_strides[2:])
    words["thread_bytes"] = _lay_out(words, conv, plan, lines, lanes)
    array = np.array([*words.values(), *records], dtype=np.int64)
    return Job(array, array.ctypes.data, threads, words["thread_bytes"] * threads)


def _cut(conv: Conv, plan: Plan, target: Target, lines: list[_Line], blocks: int, threads: int) -> int:
    """Choose the boxes; returns how many blocks of output channels one unit takes."""
    left = PIXELS
    for line in reversed(lines):
        line.cut(left)
        left = max(1, left // line.box)
    room = target.l2 * 2 // 5 // (conv.ci * BYTES[conv.dtype])

    def smaller() -> bool:
        for line in lines:
            if line.box > 1:
                line.cut(line.box // 2)
                return True
        return False

    while plan.packed and prod(line.slots for line in lines) > room and smaller():
        pass
    wanted = 4 * threads

    def units() -> int:
        return conv.n * prod(line.boxes for line in lines)

    while threads > 1 and units() < wanted and prod(line.box for line in lines) >= 2 * FEWEST and smaller():
        pass
    pieces = min(blocks, -(-wanted // units())) if threads > 1 else 1
    return -(-blocks // pieces)


def _axis_words(
    words: dict[str, int], lines: list[_Line], x_strides: tuple[int, ...], y_strides: tuple[int, ...]
) -> list[int]:
    """Fill the per-axis words; returns the phases' records and (tap, source) pairs that follow the job."""
    records: list[int] = []
    pairs: list[int] = []
    missing = (0,) * (3 - len(x_strides))
    strides = zip((*missing, *x_strides), (*missing, *y_strides), strict=True)
    begin = len(JOB) + len(PHASE) * sum(len(line.phases) for line in lines)
    for a, (line, (x_stride, y_stride)) in enumerate(zip(lines, strides, strict=True)):
        words |= {
            f"size{a}": line.axis.size, f"x_stride{a}": x_stride, f"y_stride{a}": y_stride,
            f"count{a}": line.count, f"box{a}": line.box, f"boxes{a}": line.boxes,
            f"jump{a}": line.jump, f"least{a}": line.least, f"span{a}": line.span, f"step{a}": line.step,
            f"phases{a}": len(line.phases), f"at_phases{a}": len(JOB) + len(records),
        }  # fmt: skip
        inner = prod(other.axis.kernel for other in lines[a + 1 :])
        for phase in line.phases:
            records += [phase.first, phase.count, len(phase.taps), begin + len(pairs)]
            for tap, source in zip(phase.taps, phase.sources, strict=True):
                pairs += [tap * inner, source - line.least]
    return records + pairs


def _lay_out(words: dict[str, int], conv: Conv, plan: Plan, lines: list[_Line], lanes: int) -> int:
    """Place the parts of a thread's scratch, each on a cache line of its own; returns the bytes of all."""
    size = BYTES[conv.dtype]
    pixels = prod(line.box for line in lines)
    tiles = -(-pixels // plan.pixels)
    taps = prod(line.reach for line in lines)
    width = plan.vectors * lanes
    parts = {
        **{f"at_slots{a}": line.slots * 8 for a, line in enumerate(lines)},
        "at_taps": taps * 32,
        "at_counts": tiles * 8,
        "at_places": tiles * plan.pixels * 8,
        "at_rows": tiles * taps * (plan.pixels + 1) * 8,
        "at_zeros": 0 if plan.packed else conv.ci * size,
        "at_image": conv.ci * prod(line.slots for line in lines) * size if plan.packed else 0,
        "at_block": (tiles * plan.pixels * width if plan.blocked else conv.co + width) * size,
    }
    at = 0
    for name, length in parts.items():
        words[name] = at
        at += -(-length // 64) * 64 + 64
    return -(-at // 4096) * 4096
