"""Both phases of a transposed layer's rows, in steps of two, at once: their sums stand side by side
in registers and leave as whole rows of the output.

Phase 0 reads the sources s, s + 1, ... of an output, phase 1 those from s + `shift` on; what both
read is loaded once, all taps of a row are unrolled, and two vectors of sums become two of
neighbouring outputs. Phase by phase, results went out one by one, every other number of a row. Each
output is the same chain of multiply-adds either way.

Contiguous, in ms on two Zen 3 cores, phase by phase and so: 128@28 3x3 in 32 groups 0.33 and 0.20,
64->3@32 4x4 0.115 and 0.081 (konv.kernels.subpixel takes 1.0 to 1.08 times as long). What is four
channels ahead is asked for: 0.96 of the time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import cbrt

from konv.geometry import Axis
from konv.llvm import I8, Function, Pointer, Value, Variable
from konv.plan import Plan
from konv.target import Target

AT = 4  # words of a plan's form before those of a pair
MOST = 8  # taps of a row, which are all unrolled


def in_pairs(plan: Plan) -> bool:
    """Whether a plan takes both phases at once."""
    return len(plan.form) > AT


@dataclass(frozen=True, slots=True)
class Pair:
    """The taps of a row: how many each phase has, how far the first of phase 1 is from that of
    phase 0 in the kernel, and in a strip.
    """

    taps: tuple[int, int]
    apart: int
    shift: int

    @classmethod
    def of(cls, axis: Axis) -> Pair | None:
        """That of a layer's last axis, at any size; None if it has none."""
        if (axis.up, axis.stride, axis.dilation) != (2, 1, 1) or axis.kernel > MOST:
            return None
        # Of one output there is but one phase; plans hold no sizes.
        first, second = replace(axis, hi=axis.hi + 2).phases()
        if not (first.taps and second.taps):
            return None
        return cls(
            (len(first.taps), len(second.taps)),
            second.taps[0] - first.taps[0],
            second.sources[0] - first.sources[0],
        )

    @classmethod
    def from_form(cls, plan: Plan) -> Pair | None:
        """The inverse of `form`, None of a plan that takes phases one by one."""
        if not in_pairs(plan):
            return None
        first, second, apart, shift = plan.form[AT:]
        return cls((first, second), apart, shift)

    @property
    def form(self) -> tuple[int, ...]:
        """As `Plan.form` ends."""
        return (*self.taps, self.apart, self.shift)

    @property
    def reads(self) -> int:
        """Sources of an output of both phases."""
        return max(self.taps[0], self.taps[1] + self.shift)

    def add_row(
        self,
        f: Function,
        sums: list[list[list[Variable]]],
        x: Pointer,
        weights: Pointer,
        lanes: int,
        ahead: Value,
    ) -> None:
        """Add a row of taps of one channel to sums[phase][output channel][vector]; `weights` of the
        first tap of phase 0.
        """
        nc, nv = len(sums[0]), len(sums[0][0])
        f.prefetch((x + ahead).cast(I8))
        for at in range(self.reads):
            vectors = [x.vector(at + v * lanes, lanes) for v in range(nv)]
            for phase, tap in enumerate((at, at - self.shift)):
                if not 0 <= tap < self.taps[phase]:
                    continue
                place = (2 * tap + phase * self.apart) * nc
                for k, row in enumerate(sums[phase]):
                    w = f.splat(weights[place + k], lanes)
                    for total, vector in zip(row, vectors, strict=True):
                        total.set(f.fma(vector, w, total.get()))


def weave(f: Function, first: list[Value], second: list[Value]) -> list[Value]:
    """Numbers of both in turns: twice as many vectors."""
    lanes = first[0].lanes
    order = [lane + other for lane in range(lanes) for other in (0, lanes)]
    halves = order[:lanes], order[lanes:]
    return [f.shuffle(a, b, half) for a, b in zip(first, second, strict=True) for half in halves]


def tiles(co: int, most: int, target: Target) -> list[tuple[int, int]]:
    """(output channels, vectors of each phase) whose sums, inputs and one weight fit in registers.

    Of 32 registers LLVM wants some more, to read the next vectors ahead; SSE one for the product.
    """
    room = target.registers - {(32, 16): 1, (16, 16): 3}.get(
        (target.vector_bytes, target.registers), 4
    )
    return [
        (nc, nv)
        for nc, nv in product(range(1, min(co, most) + 1), range(1, room))
        if (2 * nc + 1) * nv <= room < (2 * nc + 1) * (nv + 1)
    ]


def straddling(adds: float, loads: float) -> float:
    """Cycles of a loop with AVX-512 whose multiply-adds and loads alone would take so many, most
    loads straddling two cache lines: the one hides the other only in part. 8 channels x 3 vectors
    run at 98 % of what aligned ones do (conv1d 64@1000, 31 taps), 6 x 4 at 97, 5 x 5 at 92, 4 x 6
    at 88, 3 x 7 at 81, 2 x 10 at 67, 1 x 15 at 44, one vector of 8 channels at 70 (Granite Rapids).
    """
    return 1.06 * cbrt(adds**3 + loads**3)


def loop_cost(pair: Pair, co: int, nc: int, nv: int, target: Target) -> float:
    """Cycles for each vector of outputs, channel and tap, as konv.kernels.planar.loop_cost counts
    them. With AVX-512 rows are two vectors as often as more, and a channel's taps take 4 beside.
    """
    taps, wide = sum(pair.taps), target.vector_bytes == 64
    split, most = (2.0, min(nv, 2)) if wide else (1.33, nv)

    def block(n: int) -> float:
        adds, loads = taps * n * most / 2, (pair.reads * most * split + taps * n) / 2
        if wide:
            return max(straddling(adds, loads), 4 * max(pair.taps)) + 4
        return max(adds, loads, 4 * max(pair.taps)) + 1

    full, tail = divmod(co, nc)
    return (full * block(nc) + (block(tail) if tail else 0)) / (most * taps)
