"""A planar kernel's work at one image size: boxes of outputs, their strips, the offset of each tap.

A strip holds what the outputs of a box read, [channel][phase][depth][row][column]. With a stride
(`jump`) the sources of an axis are dealt out to as many phases, so that neighbouring outputs read
neighbouring numbers; phases that no tap reads are left out.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import prod

from konv.geometry import ONE, Conv
from konv.kernels import scratch
from konv.kernels.lines import Line
from konv.kernels.planar.pair import in_pairs
from konv.kernels.planar.strip import JOB, PHASE, ROW
from konv.kernels.schedule import ALONE, MODES
from konv.plan import Plan, Strides, Work
from konv.target import BYTES, Target

FEWEST = 64  # outputs of a box, below which it is cut no further: three or four vectors
SLACK = 8  # vectors behind a strip that a tile may read and nobody uses


class Span:
    """One axis of a strip: which sources it holds, where each tap reads."""

    def __init__(self, line: Line) -> None:
        self.line, self.jump = line, line.jump
        self.kept = sorted({(read - line.least) % self.jump for read in _all_reads(line)})

    @property
    def reach(self) -> int:
        """Sources of one phase beyond those of the last output."""
        return self.line.span // self.jump

    @property
    def length(self) -> int:
        """Sources of one phase in a strip."""
        return self.line.box + self.reach

    def raws(self) -> list[int]:
        """The source of each slot, phase by phase, counted from the strip's first."""
        return [phase + q * self.jump for phase in self.kept for q in range(self.length)]

    def place(self, source: int) -> tuple[int, int]:
        """Phase and place of what the first output reads."""
        q, phase = divmod(source - self.line.least, self.jump)
        return self.kept.index(phase), q


def _all_reads(line: Line) -> list[int]:
    """What all phases of the outputs read. Those that an image is too small for count too: what a
    strip keeps is in the plan, and plans hold no sizes.
    """
    axis = line.axis
    if len(line.phases) == line.step:
        return line.reads
    return Line(replace(axis, hi=axis.hi + line.step * axis.stride)).reads


class Cut:
    """How a layer is cut into units of groups x boxes."""

    def __init__(
        self, conv: Conv, plan: Plan, target: Target, threads: int, fewest: int | None = None
    ) -> None:
        self.fewest = FEWEST if fewest is None else fewest
        axes = (ONE,) * (3 - conv.dims) + conv.axes
        self.conv, self.plan, self.lanes = conv, plan, target.lanes(plan.dtype)
        self.threads = 1 if conv.exact_macs < ALONE else threads
        self.axes = [Span(Line(axis)) for axis in axes]
        self.lines = [strip.line for strip in self.axes]
        self.ci, self.co = conv.ci // conv.groups, conv.co // conv.groups
        # Channels-last inputs are read a cache line of channels at a time.
        self.chunk = 1 if plan.packed else max(1, min(conv.groups, -(-self.lanes // self.ci)))
        self.room = target.l2 // 4 // BYTES[plan.dtype]
        self._choose_boxes()

    def _choose_boxes(self) -> None:
        wanted = 4 * self.threads if self.threads > 1 else 0
        while prod(line.box for line in self.lines) >= 2 * self.fewest and (
            self.units < wanted or self.numbers > self.room
        ):
            outer = next((line for line in self.lines[:2] if line.box > 1), self.lines[2])
            wide = self.lines[2].box > 16 * max(1, prod(line.box for line in self.lines[:2]))
            line = self.lines[2] if wide else outer
            line.cut(line.box // 2)

    @property
    def numbers(self) -> int:
        """Numbers of a strip and a block of results."""
        return (
            self.chunk * self.ci * self.plane + self.plan.form[0] * self.row_outputs * self.abreast
        )

    @property
    def chunks(self) -> int:
        return -(-self.conv.groups // self.chunk)

    @property
    def units(self) -> int:
        return self.conv.n * self.chunks * prod(line.boxes for line in self.lines)

    @property
    def pitch(self) -> int:
        """Numbers in a row of a strip."""
        return self.axes[2].length

    @property
    def plane(self) -> int:
        """Numbers of one channel in a strip."""
        return prod(len(strip.kept) * strip.length for strip in self.axes)

    @property
    def row_outputs(self) -> int:
        """Outputs that are computed at once at most: all rows of a box at one depth."""
        return (self.lines[1].box - 1) * self.pitch + self.lines[2].box

    @property
    def abreast(self) -> int:
        """Phases of the last axis that are computed together."""
        return 2 if in_pairs(self.plan) else 1

    @property
    def outputs(self) -> int:
        """Outputs computed in all, those that belong to no pixel included, of one channel."""
        phases = prod(len(line.phases) for line in self.lines)
        boxes = prod(line.boxes for line in self.lines) * self.lines[0].box
        return phases * boxes * -(-self.row_outputs // self.lanes) * self.lanes

    @property
    def copied(self) -> int:
        """Numbers of one channel in all strips."""
        return prod(line.boxes for line in self.lines) * self.plane

    def work(self, x: Strides, y: Strides) -> Work:
        """The words of the job; strides in elements."""
        conv, lanes = self.conv, self.lanes
        face = self.axes[1].length * self.pitch
        stack = self.axes[0].length * face
        sizes = [len(strip.kept) for strip in self.axes]
        words = dict.fromkeys(JOB, 0)
        block = (-(-self.row_outputs // lanes) * lanes + lanes) * self.abreast
        words |= {
            "units": self.units, "chunks": self.chunks, "chunk": self.chunk,
            "groups": conv.groups, "ci": self.ci, "co": self.co, "mode": MODES[conv.mode],
            "taps": prod(axis.kernel for axis in conv.axes),
            "x_batch": x[0], "x_channel": x[1], "y_batch": y[0], "y_channel": y[1],
            "pitch": self.pitch, "face": face, "plane": self.plane, "block": block,
        }  # fmt: skip
        tables: list[int] = []
        missing = (0,) * (3 - conv.dims)
        strides = zip((*missing, *x[2:]), (*missing, *y[2:]), strict=True)
        apart = (sizes[1] * sizes[2] * stack, sizes[2] * stack, stack)
        inside = (face, self.pitch, 1)
        for a, (strip, (x_stride, y_stride)) in enumerate(zip(self.axes, strides, strict=True)):
            line = strip.line
            words |= {
                f"size{a}": line.axis.size, f"x_stride{a}": x_stride, f"y_stride{a}": y_stride,
                f"count{a}": line.count, f"box{a}": line.box, f"boxes{a}": line.boxes,
                f"jump{a}": line.jump, f"least{a}": line.least, f"reach{a}": strip.reach,
                f"kept{a}": sizes[a], f"length{a}": strip.length, f"apart{a}": apart[a],
                f"inside{a}": inside[a], f"step{a}": line.step, f"phases{a}": len(line.phases),
                f"at_raws{a}": len(JOB) + len(tables),
            }  # fmt: skip
            tables += strip.raws()
        words["at_phases"] = len(JOB) + len(tables)
        tables += self._phases(words["at_phases"], apart, inside)
        words["thread_bytes"] = scratch.lay_out(words, self._parts(block))
        return Work([*words.values(), *tables], self.threads, words["thread_bytes"])

    def _parts(self, block: int) -> dict[str, int]:
        """The parts of a thread's scratch by the word that says where they begin, in bytes."""
        size, slots = BYTES[self.plan.dtype], [len(strip.raws()) for strip in self.axes]
        slack = SLACK * self.lanes + self.plan.pixels
        return {
            **{f"at_slots{a}": 8 * length for a, length in enumerate(slots)},
            "at_rows": 8 * ROW * slots[0] * slots[1],
            "at_strip": (self.chunk * self.ci * self.plane + slack) * size,
            "at_block": self.plan.form[0] * block * size,
        }

    def _phases(self, at: int, apart: tuple[int, ...], inside: tuple[int, ...]) -> list[int]:
        """A record for each phase of the outputs, then the list of each: where a tap reads in a
        strip, and its number in the kernel.
        """
        every = list(product(*(line.phases for line in self.lines)))
        records: list[int] = []
        lists: list[int] = []
        inner = [prod(o.axis.kernel for o in self.lines[a + 1 :]) for a in range(3)]
        for phases in every:
            begin = at + len(PHASE) * len(every) + len(lists)
            taps = list(product(*(zip(p.taps, p.sources, strict=True) for p in phases)))
            records += [len(taps), begin]
            records += [number for p in phases for number in (p.first, p.count)]
            for tap in taps:
                places = [s.place(source) for s, (_, source) in zip(self.axes, tap, strict=True)]
                offset = sum(
                    phase * apart[a] + q * inside[a] for a, (phase, q) in enumerate(places)
                )
                lists += [offset, sum(k * n for (k, _), n in zip(tap, inner, strict=True))]
        return records + lists
