"""What konv.kernels.strips works from: the shape of its loops, and what plans say about it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from typing import Any

from konv.geometry import ONE, Conv
from konv.kernels.words import Words
from konv.llvm import Function, Value
from konv.plan import Plan
from konv.target import BYTES

WIDEST = 112  # columns of a plane's unit: a whole row of most networks' largest depthwise maps
LONGEST = 1024  # the same where there are no rows
FEW = 7  # taps along a tile whose weights stay in registers; of more, all padding is left out
# Taps along a tile up to which all are unrolled, those of RepLKNet; of more, so many at a time, or
# kernels would take long to compile.
UNROLLED, PIECE = 31, 16
VOLUME = 9  # rows of taps of a volume up to which memory is met in its own order
ENDLESS = 2**30  # more slots than a strip has
STEPS = 3  # slots told apart without another pointer: 0, 1 and 2 steps from one
THERE = 4  # bytes for each column that say whether it is there
HELD = 9  # weights at hand: of 16 registers six are sums, others hold what others read from memory
PAIR = 2  # rows of outputs side by side: their six sums and nine weights leave a register for slots
STACK = 4  # rows of outputs in a column
ABREAST = 2  # of vectors that slide: their chains of multiply-adds are apart
# As the last number of a plan's form: konv.kernels.strips.turns, konv.kernels.strips.bands; rows as
# they lie, in vectors of half as many lanes (konv.kernels.planes); 1: rows as they lie, of pencils
# the tiles of konv.kernels.strips.walk
TURNS, BANDS, HALVED = 2, 3, 4
BESIDE = 10  # numbers of a form; of channels side by side one more
TALL = (8, 7)  # rows of tiles whose outputs take turns; 7 sums take as long as 8
UNROLL = 160  # multiply-adds of a tile up to which the outer taps are unrolled too


@dataclass(frozen=True, slots=True)
class Form:
    """What a plan's inner loops are specialised on, read from `Plan.form`; per axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    lanes: int
    planes: bool
    direct: bool
    banded: bool
    beside: int  # channels that are one plane (konv.kernels.strips.interlaced), else 0

    @classmethod
    def of(cls, plan: Plan, lanes: int) -> Form:
        kernel, stride, dilation = plan.form[:3], plan.form[3:6], plan.form[6:9]
        planes = plan.algorithm == "planes"
        direct = plan.form[9] in (1, BANDS, HALVED)
        return cls(kernel, stride, dilation, lanes, planes, direct, banded(plan), beside(plan))

    @property
    def numbers(self) -> int:
        """Of a tap in packed weights: for one line, or for vectors from any channel on."""
        if not self.planes:
            return self.lanes
        return self.lanes + self.beside - 1 if self.beside else 1

    @property
    def along(self) -> int:
        """The axis of a tile's outputs."""
        return 1 if self.planes else 2

    @property
    def across(self) -> int:
        """The other axis, whose taps are outer ones; lanes lie along it in planes."""
        return 3 - self.along

    @property
    def apart(self) -> int:
        """Outputs from one of a tile to the next: they share slots then. Of pencils that read where
        the image lies neighbours: so tiles end where rows do, and of three dilated taps seven
        outputs share what they share among themselves, or no load is left out, of 63 for as many
        multiply-adds.
        """
        if self.direct and not self.planes:
            return 1
        stride, dilation = self.stride[self.along], self.dilation[self.along]
        return dilation // gcd(stride, dilation) if self.kernel[self.along] > 1 else 1

    def slots(self, axis: int, outputs: int) -> int:
        """Slots under so many outputs."""
        return (outputs - 1) * self.stride[axis] + self.extent(axis)

    def extent(self, axis: int) -> int:
        return (self.kernel[axis] - 1) * self.dilation[axis] + 1

    @property
    def phases(self) -> int:
        """Column phases of a row in the strip: one if kernels read rows as the input has them."""
        return 1 if self.direct else self.stride[2]

    def uses(
        self, outputs: int, first: int = 0, taps: int | None = None
    ) -> dict[int, list[tuple[int, int]]]:
        """slot -> (output, tap) that read it, for a tile along the axis and `taps` taps from the
        `first` on; slots ascend.
        """
        last = self.kernel[self.along] if taps is None else first + taps
        found: dict[int, list[tuple[int, int]]] = defaultdict(list)
        jump, dilation = self.apart * self.stride[self.along], self.dilation[self.along]
        for output in range(outputs):
            for tap in range(first, min(last, self.kernel[self.along])):
                found[output * jump + tap * dilation].append((output, tap))
        return dict(sorted(found.items()))

    def turns(self, outputs: int) -> list[tuple[int, list[tuple[int, int]]]]:
        """(tap, [(output, slot)]) for a tile along the axis, a tap for all outputs after the other;
        taps that read the same slots follow each other.
        """
        jump, dilation = self.apart * self.stride[self.along], self.dilation[self.along]
        taps = sorted(range(self.kernel[self.along]), key=lambda tap: tap * dilation % jump)
        return [(t, [(o, o * jump + t * dilation) for o in range(outputs)]) for t in taps]

    @property
    def finest(self) -> int:
        """What all slots of a tile along its axis are multiples of."""
        jump, dilation = self.apart * self.stride[self.along], self.dilation[self.along]
        return gcd(jump, dilation) if self.kernel[self.along] > 1 else jump

    def zeros(self, columns: Any) -> Any:
        """Elements that tiles over so many columns, a number or a Value, read of a row: as many
        zeros stand for a row beside the image.
        """
        return (columns - 1) * self.stride[2] + (self.extent(2) + self.stride[2] * self.lanes)

    def columns(self, slots: Any, outputs: int) -> Any:
        """How many columns tiles of pencils read or pass over that begin in the first of so many
        slots, a number or a Value.
        """
        return slots + outputs * self.stride[2]

    def widest(self, single: bool) -> int:
        """Columns of a unit at most, where a row of the strip has a length known beforehand."""
        return max(LONGEST if single or self.banded else WIDEST, self.lanes)

    def half(self, single: bool) -> int:
        """Elements of one column phase of a row: its slots, room for a vector more, in an odd
        number of vectors, so that rows do not meet in the same sets of a cache.
        """
        slots = self.slots(2, self.widest(single)) // self.phases + 1 + self.stride[2] * self.lanes
        vectors = -(-slots // self.lanes)
        return (vectors + 1 - vectors % 2) * self.lanes

    def row(self, single: bool) -> int:
        """Elements from one row of a plane's strip to the next."""
        return self.half(single) * self.phases


def in_pieces(f: Function, taps: int, each: int, add: Callable[[Value | int, int], None]) -> None:
    """add(first, count) for so many taps at a time, and for those that are left; in a loop if taps
    are too many to be unrolled.
    """
    looped = taps // each if taps > UNROLLED else 0
    if looped:
        with f.loop(looped) as piece:
            add(piece * each, each)
    for first in range(looped * each, taps, each):
        add(first, min(each, taps - first))


def form_of(conv: Conv) -> tuple[int, ...]:
    """Taps, strides and dilations of three axes, as `Plan.form` holds them."""
    axes = (ONE,) * (3 - len(conv.axes)) + conv.axes
    return (
        *(a.kernel for a in axes),
        *(a.stride if a.kernel * a.stride > 1 else 1 for a in axes),
        *(a.dilation if a.kernel > 1 else 1 for a in axes),
    )


def dealt(plan: Plan, lanes: int) -> list[int]:
    """The even ones of 2 x lanes columns, in an order that costs one instruction: those of each 128
    bits of two registers side by side. Only results are brought in order, for the way from one half
    of a register to the other is slow.
    """
    own = 16 // BYTES[plan.dtype]
    begins = [at for n in range(0, lanes, own) for at in (n, lanes + n)]
    return [begin + n for begin in begins for n in range(0, own, 2)]


def slides(plan: Plan) -> bool:
    """Whether a plan's vectors may slide, or go along bands: no slot between outputs is one that
    nobody reads. Where tiles may be taken instead, they are for narrow rows.
    """
    high, stride, dilation = plan.form[1], plan.form[4], plan.form[7]
    gaps = stride // gcd(stride, dilation) > high
    few = high > 1 and plan.pixels > 1 and (at_hand(plan) or banded(plan))
    tiles = halved(plan) and not stepping(plan)  # narrow rows go by tiles where there is a choice
    return plan.algorithm == "planes" and (few or beside(plan) > 0) and not (gaps or tiles)


def halved(plan: Plan) -> bool:
    """Whether a plan's vectors have half as many lanes as the machine's."""
    return plan.algorithm == "planes" and plan.form[9] == HALVED


def at_hand(plan: Plan) -> bool:
    """Whether all weights of a line stay at hand."""
    deep, high, wide = plan.form[:3]
    return deep == 1 and high * wide <= HELD


def banded(plan: Plan) -> bool:
    """Whether bands of rows take the place of vectors that slide."""
    return plan.algorithm == "planes" and plan.form[9] == BANDS


def beside(plan: Plan) -> int:
    """Channels that lie side by side and are one plane; 0 of all other plans."""
    return plan.form[10] if banded(plan) and len(plan.form) > BESIDE else 0


def copies(plan: Plan) -> bool:
    """Whether a plan is that of konv.kernels.strips.turns: strips alone, a tap after the other."""
    return plan.algorithm == "planes" and plan.form[9] == TURNS


def paired(plan: Plan) -> bool:
    """Whether a plan's outputs are completed in pairs of rows: pencils of few taps."""
    deep, high, wide = plan.form[:3]
    few = high > 1 and high * wide <= HELD and deep == 1
    return plan.algorithm == "pencils" and bool(plan.form[9]) and few


def stepping(plan: Plan) -> bool:
    """Whether a plan is strided or dilated along the rows: then tiles are no choice."""
    return plan.form[4] * plan.form[7] > 1


def walks(plan: Plan) -> bool:
    """Whether there is another sweep for images that come from memory. In pencils a tile is then
    computed for all lines of the unit before the next, where channels lie side by side on both
    sides: memory is met in its own order; of an image's 7 rows under a tile nothing is gained.
    In planes the next rows are asked for (Zen 3: 96@56 7x7 of 8 images, 2.2 to 1.8 ms), or, by no
    other sweep, the next line where vectors may slide. 3x3x3 64@8x56x56, channels-last: 2.4 to 1.7
    ms, contiguous 2.8 to 2.1, in steps of two nothing or less (256@8x24x24 1.1 to 2.4).
    """
    most = FEW if plan.algorithm == "planes" else 5
    if plan.form[0] > 1 and (plan.form[4] == 1 or plan.algorithm == "pencils"):
        most = VOLUME
    if plan.form[9] != 1 or plan.form[0] * plan.form[1] > most:
        return False
    if plan.algorithm == "planes":  # rows of a dilated tile are no neighbours
        return plan.form[4] % plan.form[7] == 0 or plan.form[1] == 1
    return not plan.blocked


def strip_steps(plan: Plan, form: Form, unit: Words) -> list[Any]:
    """Elements from one slot of the strip to the next, per axis."""
    if form.planes:
        whole = form.row(plan.pixels == 1)
        return [unit["slots", 1] * whole, whole, 1]
    row = unit["slots", 2] * form.lanes
    return [unit["slots", 1] * row, row, form.lanes]
