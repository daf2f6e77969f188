"""How a layer of groups abreast is cut into units: boxes of pixels x some cells, which are the
groups that share vectors of output channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod

from konv.geometry import ONE, Conv
from konv.kernels import scratch
from konv.kernels.abreast.strip import JOB
from konv.kernels.lines import Line
from konv.kernels.schedule import ALONE, MODES
from konv.plan import Plan, Strides, Work
from konv.target import BYTES, Target

FEWEST = 48  # outputs of a box, below which it is cut no further
WORTH = 20_000  # products a lane, up to which units take more cells: a unit costs some 1000 cycles


@dataclass(frozen=True, slots=True)
class Cells:
    """Groups that share a vector of output channels, or one group of several vectors.

    count     cells of a layer
    groups    in each
    vectors   of output channels of each
    wide      input channels of each
    """

    count: int
    groups: int
    vectors: int
    wide: int

    @classmethod
    def of(cls, conv: Conv, plan: Plan, target: Target) -> Cells:
        """The cells of a layer."""
        together, lanes = plan.form[3], target.lanes(plan.dtype)
        count = conv.groups // together
        return cls(count, together, conv.co // count // lanes, conv.ci // count)


class Cut:
    """How a layer is cut into units of cells x boxes."""

    def __init__(self, conv: Conv, plan: Plan, target: Target, threads: int) -> None:
        axes = (ONE,) * (3 - conv.dims) + conv.axes
        self.conv, self.plan, self.lanes = conv, plan, target.lanes(plan.dtype)
        self.cells = Cells.of(conv, plan, target)
        self.threads = 1 if conv.exact_macs < ALONE else threads
        self.lines = [Line(axis) for axis in axes]
        self.room = target.l2 // 2 // BYTES[plan.dtype]
        # Channels-last images are read in pairs of cache lines, as processors fetch them (128@56:
        # 0.25 ms, by single lines 0.28, by four 0.28, Zen 3).
        pair = 2 * scratch.LINE // BYTES[plan.dtype]
        self.chunk = 1 if plan.packed else min(self.cells.count, -(-pair // self.cells.wide))
        self._choose_boxes()

    def _choose_boxes(self) -> None:
        wanted = 4 * self.threads if self.threads > 1 else 1
        while prod(line.box for line in self.lines) >= 2 * FEWEST and (
            self.units < wanted or self.numbers > self.room
        ):
            outer = next((line for line in self.lines[:2] if line.box > 1), self.lines[2])
            wide = self.lines[2].box > 16 * max(1, prod(line.box for line in self.lines[:2]))
            line = self.lines[2] if wide else outer
            line.cut(line.box // 2)
        taps = prod(axis.kernel for axis in self.conv.axes) * self.plan.depth
        each = taps * prod(line.box for line in self.lines) * self.cells.vectors
        while (
            2 * self.chunk <= self.cells.count
            and self.chunk * each < WORTH
            and self.units >= 2 * wanted
            and 2 * self.numbers <= self.room
        ):
            self.chunk *= 2

    @property
    def numbers(self) -> int:
        """Numbers of a strip and a block of results."""
        block = self.lanes * prod(line.box for line in self.lines[1:])
        return self.chunk * self.plane + block * self.plan.blocked

    @property
    def chunks(self) -> int:
        return -(-self.cells.count // self.chunk)

    @property
    def units(self) -> int:
        return self.conv.n * self.chunks * prod(line.boxes for line in self.lines)

    def slots(self, line: Line) -> int:
        """Sources that a box reads, those between them too."""
        return (line.box - 1) * line.jump + line.span + 1

    @property
    def plane(self) -> int:
        """Numbers of one cell in a strip."""
        return self.cells.wide * prod(self.slots(line) for line in self.lines)

    @property
    def copied(self) -> int:
        """Numbers of one channel in all strips."""
        return prod(line.boxes * self.slots(line) for line in self.lines)

    def work(self, x: Strides, y: Strides) -> Work:
        """The words of the job; strides in elements."""
        conv, wide = self.conv, self.cells.wide
        pitch = wide * self.slots(self.lines[2])
        face = pitch * self.slots(self.lines[1])
        words = dict.fromkeys(JOB, 0)
        words |= {
            "units": self.units, "chunks": self.chunks, "chunk": self.chunk,
            "cells": self.cells.count, "vectors": self.cells.vectors, "mode": MODES[conv.mode],
            "x_batch": x[0], "x_channel": x[1], "y_batch": y[0], "y_channel": y[1],
            "pitch": pitch, "face": face, "plane": self.plane,
        }  # fmt: skip
        tables: list[int] = []
        missing = (0,) * (3 - conv.dims)
        strides = zip((*missing, *x[2:]), (*missing, *y[2:]), strict=True)
        for a, (line, (x_stride, y_stride)) in enumerate(zip(self.lines, strides, strict=True)):
            words |= {
                f"size{a}": line.axis.size, f"x_stride{a}": x_stride, f"y_stride{a}": y_stride,
                f"count{a}": line.count, f"box{a}": line.box, f"boxes{a}": line.boxes,
                f"jump{a}": line.jump, f"least{a}": line.least, f"span{a}": line.span,
                f"at_raws{a}": len(JOB) + len(tables),
            }  # fmt: skip
            tables += range(self.slots(line))
        words["at_rows"] = len(JOB) + len(tables)
        outer = [range(line.axis.kernel) for line in self.lines[:2]]
        apart = [self.lines[0].axis.dilation * face, self.lines[1].axis.dilation * pitch]
        tables += [a * apart[0] + b * apart[1] for a, b in product(*outer)]
        words["rows"] = len(outer[0]) * len(outer[1])
        words["thread_bytes"] = scratch.lay_out(words, self._parts())
        return Work([*words.values(), *tables], self.threads, words["thread_bytes"])

    def _parts(self) -> dict[str, int]:
        """The parts of a thread's scratch by the word that says where they begin, in bytes."""
        size = BYTES[self.plan.dtype]
        block = self.lanes * prod(line.box for line in self.lines[1:])
        return {
            **{f"at_slots{a}": 8 * self.slots(line) for a, line in enumerate(self.lines)},
            "at_strip": (self.chunk * self.plane + self.lanes) * size,
            "at_block": block * size * self.plan.blocked,
        }
