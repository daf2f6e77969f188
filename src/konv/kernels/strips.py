"""Depthwise convolution from strips: what konv.kernels.planes and konv.kernels.pencils share.

    for unit in units, taken by threads one after the other:   a box of output pixels, some lines
        for line in lines:                                     a channel, or a vector of channels
            fill the strip: the line's input under the box,    padding, modes, column phases end here
              padded, in scratch, small enough for the first-level cache
            for outer output, tile of outputs:                 THE LOOP
                for outer tap: for slot under the tile:
                    load it once; multiply-add it into every output of the tile that reads it

One filter a channel leaves nothing to sum over but taps, so a kernel that loads its input for every
tap is bound by loads. Here a tile is several outputs along one axis, `along`, that lie as far apart
as its dilation asks, so that they read each other's slots: of R outputs and K taps each loaded
vector serves R * K / (R + K - 1) multiply-adds.

    planes    lanes are pixels of a row, lines are channels; tiles along the rows; weights are splat
    pencils   lanes are channels, lines are vectors of them; tiles along the columns

An output is one chain of multiply-adds: outer taps, then taps along the tile, the same wherever it
lies. In a strip all is regular: the distances between slots are numbers known to the compiler, but
for the plane (and the row of pencils).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import gcd
from typing import Any

from konv.geometry import Axis, Conv
from konv.kernels.packing import HEADER
from konv.kernels.region import emit_entry, emit_shares
from konv.kernels.words import AXES, Words
from konv.llvm import I1, I8, I64, REAL, SIZE, Function, Module, Pointer, Routine, Value, Variable
from konv.llvm import pointer_to
from konv.plan import Plan
from konv.target import Target

JOB = (
    "units", "chunks", "chunk", "lines",  # pieces of work; of the lines; lines in one; all of them
    "channels", "multiplier",  # of the output; output channels that read one input channel
    "mode",  # padding: 0 zeros, 1 reflect, 2 replicate, 3 circular
    "zeros",  # 1 if padding is zeros, which may be left out where all weights are finite
    "dense",  # 1 if lanes lie side by side in the input
    "x_batch", "x_channel", "y_batch", "y_channel",  # strides, in elements
    "thread_bytes", "at_strip", "at_dump",  # scratch of one thread; its parts, in bytes
    *(f"{name}{axis}" for name in (
        "size", "lo",  # of the input, and pixels of padding before it
        "x_stride", "y_stride",  # in elements
        "out", "box", "boxes",  # outputs: all, in a unit, and units along the axis
    ) for axis in AXES),
)  # fmt: skip

UNIT = (
    "x", "y", "weights", "scratch",  # addresses: image, result, packed weights, thread's scratch
    "skip",  # 1 if taps that lie in the padding are left out
    "direct",  # 1 if the input is read as it lies; 0: from the strip
    "line0", "line1",
    *(f"{name}{axis}" for name in (
        "j", "length",  # first output of the unit, and how many
        "raw", "slots",  # first source, and how many
        "before", "most",  # a slot s holds a number if 0 <= s + before < most
        "step",  # elements from one slot to the next
    ) for axis in AXES),
)  # fmt: skip

WIDEST = 112  # columns of a plane's unit: a whole row of most networks' largest depthwise maps
LONGEST = 1024  # the same where there are no rows
FEW = 7  # taps along a tile whose weights stay in registers; of more, all padding is left out
ENDLESS = 2**30  # more slots than a strip has
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

    @classmethod
    def of(cls, plan: Plan, lanes: int) -> Form:
        kernel, stride, dilation = plan.form[:3], plan.form[3:6], plan.form[6:9]
        return cls(kernel, stride, dilation, lanes, plan.packed, bool(plan.form[9]))

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
        """Outputs from one of a tile to the next: they share slots then."""
        stride, dilation = self.stride[self.along], self.dilation[self.along]
        return dilation // gcd(stride, dilation) if self.kernel[self.along] > 1 else 1

    def slots(self, axis: int, outputs: int) -> int:
        """Slots under so many outputs."""
        return (outputs - 1) * self.stride[axis] + self.extent(axis)

    def extent(self, axis: int) -> int:
        return (self.kernel[axis] - 1) * self.dilation[axis] + 1

    @property
    def phases(self) -> int:
        """Column phases of a row in the strip: one if kernels read rows as they lie in the input."""
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

    def widest(self, single: bool) -> int:
        """Columns of a unit at most, where a row of the strip has a length known beforehand."""
        return max(LONGEST if single else WIDEST, self.lanes)

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


def form_of(conv: Conv) -> tuple[int, ...]:
    """Taps, strides and dilations of three axes, as `Plan.form` holds them."""
    axes = (Axis(1, 1),) * (3 - len(conv.axes)) + conv.axes
    return (
        *(a.kernel for a in axes),
        *(a.stride if a.kernel * a.stride > 1 else 1 for a in axes),
        *(a.dilation if a.kernel > 1 else 1 for a in axes),
    )


def emit_kernel(plan: Plan, target: Target, fill: Routine, module: Module) -> Module:
    """Complete a module that has `pack` and `fill(job, unit, x)`: add `run`."""
    parts = {"fill": fill, "sweep": _emit_sweep(module, plan)}
    parts["lines"] = _emit_lines(module, plan, parts)
    emit_entry(module, lambda f, call, thread: _emit_work(plan, parts, f, call, thread), shares=True)
    return module


def _emit_work(
    plan: Plan, parts: dict[str, Routine], f: Function, call: Words, thread: Value
) -> None:
    """All the units that this thread gets hold of."""
    form, size = Form.of(plan, f.module.target.lanes(plan.dtype)), SIZE[REAL[plan.dtype]]
    job, unit = Words(call.pointer("job", I64), JOB), Words(f.array(I64, len(UNIT)), UNIT)
    unit["scratch"] = call["scratch"] + thread * job["thread_bytes"]
    unit["weights"] = call["weights"] + HEADER
    finite = call.pointer("weights", I64)[0]
    unit["skip"] = job["zeros"] & finite
    unit["direct"] = unit["skip"] & job["dense"] if form.direct else f.integer(0)

    def body(number: Value) -> None:
        chunk, rest = number % job["chunks"], number // job["chunks"]
        for axis in reversed(AXES):
            unit["j", axis] = rest % job["boxes", axis] * job["box", axis]
            rest = rest // job["boxes", axis]
            length = f.least(job["box", axis], job["out", axis] - unit["j", axis])
            unit["length", axis] = length
            unit["raw", axis] = unit["j", axis] * form.stride[axis] - job["lo", axis]
            unit["slots", axis] = (length - 1) * form.stride[axis] + form.extent(axis)
        _place_slots(plan, form, f, job, unit)
        unit["x"] = call["x"] + rest * job["x_batch"] * size
        unit["y"] = call["y"] + rest * job["y_batch"] * size
        unit["line0"] = chunk * job["chunk"]
        unit["line1"] = f.least(unit["line0"] + job["chunk"], job["lines"])
        f.call(parts["lines"], [job.base, unit.base])

    emit_shares(f, call, thread, job["units"], body)


@contextmanager
def strip_function(
    module: Module, name: str, extra: Sequence[str] = (), inline: bool = False
) -> Iterator[tuple[Function, Words, Words, list[Value]]]:
    """A function `name(job, unit, *extra)`, compiled apart unless it is to be inlined."""
    params = [("job", pointer_to(I64)), ("unit", pointer_to(I64)), *((n, I64) for n in extra)]
    with module.function(name, params, inline=inline) as (f, args):
        job, unit = Words(args[0], JOB, frozen=True), Words(args[1], UNIT, frozen=True)
        yield f, job, unit, args[2:]


def strip_of(job: Words, unit: Words, element: Any) -> Pointer:
    """The strip of this thread."""
    return (unit.pointer("scratch", I8) + job["at_strip"]).cast(element)


def _place_slots(plan: Plan, form: Form, f: Function, job: Words, unit: Words) -> None:
    """Where the slots of the unit lie, and which of them there are: in the input or in the strip."""
    skip, direct = unit["skip"].differs(0), unit["direct"].differs(0)
    for axis, step in zip(AXES, strip_steps(plan, form, unit), strict=True):
        unit["before", axis] = f.select(skip, unit["raw", axis], 0)
        unit["most", axis] = f.select(skip, job["size", axis], ENDLESS)
        unit["step", axis] = f.select(direct, job["x_stride", axis], step)


def strip_steps(plan: Plan, form: Form, unit: Words) -> list[Any]:
    """Elements from one slot of the strip to the next, per axis."""
    if form.planes:
        row = form.row(plan.pixels == 1)
        return [unit["slots", 1] * row, row, 1]
    row = unit["slots", 2] * form.lanes
    return [unit["slots", 1] * row, row, form.lanes]


def _emit_lines(module: Module, plan: Plan, parts: dict[str, Routine]) -> Routine:
    """lines(job, unit): each line of the unit, its strip filled if it needs one, and swept."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    taps = form.kernel[0] * form.kernel[1] * form.kernel[2]
    width = 1 if form.planes else lanes
    with strip_function(module, "lines") as (f, job, unit, _):
        weights = unit.pointer("weights", real)
        biases = weights + job["lines"] * (taps * width)
        x, y = unit.pointer("x", real), unit.pointer("y", real)
        for axis in AXES:
            y = y + unit["j", axis] * job["y_stride", axis]
        with f.loop(unit["line1"], start=unit["line0"]) as line:
            if form.planes:
                source, begin = line // job["multiplier"], line
                own = x + source * job["x_channel"]
                fresh = line.equals(source * job["multiplier"]) | line.equals(unit["line0"])
            else:
                begin = f.least(line * lanes, job["channels"] - lanes)
                own, fresh = x + begin, f.constant(I1, 1)
            with f.when(fresh & unit["direct"].equals(0)):
                f.call(parts["fill"], [job.base, unit.base, own])
            if form.direct:
                for axis in AXES:
                    own = own + unit["raw", axis] * job["x_stride", axis]
                strip = strip_of(job, unit, real)
                own = f.select_pointer(unit["direct"].differs(0), own, strip)
            else:
                own = strip_of(job, unit, real)
            numbers = weights + line * (taps * width), biases + line * width
            f.call(parts["sweep"], [job.base, unit.base, own, *numbers, y + begin * job["y_channel"]])
        return f.fn


def _emit_sweep(module: Module, plan: Plan) -> Routine:
    """sweep(job, unit, slots, weights, bias, y): all outputs of one line."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    u, o, q, mr = form.along, form.across, form.apart, plan.pixels
    names = ("slots", "weights", "bias", "y")
    # Inlined: what does not depend on the line is computed once, which small maps notice.
    with strip_function(module, "sweep", names, inline=True) as (f, job, unit, args):
        slots, weights, bias, y = (a.to_pointer(real) for a in args)
        rest = unit["length", u]
        last = f.most(unit["length", 2] - lanes, f.integer(0)) if form.planes else None
        start = f.splat(bias[0], lanes) if form.planes else bias.vector(0, lanes)
        with ExitStack() as stack:
            z = stack.enter_context(f.loop(unit["length", 0]))
            c = None if form.planes else stack.enter_context(f.loop(unit["length", o]))
            phase = stack.enter_context(f.loop(f.least(rest, q))) if q > 1 else f.integer(0)
            r = stack.enter_context(f.loop(rest, start=phase, step=mr * q))
            if c is None:
                c = stack.enter_context(f.loop(unit["length", o], step=plan.vectors * lanes))
            places = [f.least(c + n * lanes, last) for n in range(plan.vectors)] if last else [c]
            sums = [[Variable(f, start) for _ in places] for _ in range(mr)]
            tile = _Tile(f, job, unit, plan, form, weights, sums, (z, r, places))
            tile.add_all(slots)
            tile.store(y)
        return f.fn


class _Tile:
    """One tile while it is emitted: `sums[output][vector]`; it begins at output z on the first
    axis, r along, and places[vector] across.
    """

    def __init__(
        self,
        f: Function,
        job: Words,
        unit: Words,
        plan: Plan,
        form: Form,
        weights: Pointer,
        sums: list[list[Variable]],
        begin: tuple[Value, Value, list[Value]],
    ) -> None:
        self.f, self.job, self.unit, self.form, self.weights = f, job, unit, form, weights
        self.sums, (self.z, self.r, self.places) = sums, begin
        self.taps = form.kernel[form.along]
        self.few = self.taps <= FEW
        self.guarded = form.direct or not self.few
        self.steps = [unit["step", axis] for axis in AXES]
        if not form.direct:  # then they are known
            self.steps = [
                f.integer(step) for step in strip_steps(plan, form, unit)
            ]
        self.half = form.half(plan.pixels == 1)

    def there(self, axis: int, slot: Value) -> Value:
        """Whether a slot holds a number."""
        at = slot + self.unit["before", axis]
        return self.f.below_unsigned(at, self.unit["most", axis])

    def add_all(self, slots: Pointer) -> None:
        """All taps: outer ones in loops, or unrolled where they are few."""
        f, form = self.f, self.form
        o, u = form.across, form.along
        slots = slots + self.r * form.stride[u] * self.steps[u]
        with ExitStack() as stack:
            depth = form.kernel[0]
            kz = stack.enter_context(f.loop(depth)) if depth > 1 else f.integer(0)
            slot = self.z * form.stride[0] + kz * form.dilation[0]
            if self.guarded and depth > 1:
                stack.enter_context(f.when(self.there(0, slot)))
            slots = slots + slot * self.steps[0]
            if not (self.guarded and self.few):
                self.add_across(slots, kz, self.guarded)
                return
            first, most = self.r * form.stride[u], max(form.uses(len(self.sums)))
            inside = self.there(u, first) & self.there(u, first + most)
            with f.choose(inside) as (whole, border):
                with whole:
                    self.add_across(slots, kz, False)
                with border:
                    self.add_across(slots, kz, True)

    def add_across(self, slots: Pointer, kz: Value, guarded: bool) -> None:
        """The outer taps of one plane, unrolled where they are few."""
        f, taps = self.f, self.form.kernel[self.form.across]
        work = self.taps * taps * len(self.sums) * len(self.places)
        if self.few and work <= UNROLL:
            for ko in range(taps):
                self.add_outer(slots, kz, f.integer(ko), guarded)
            return
        with f.loop(taps) as ko:
            self.add_outer(slots, kz, ko, guarded)

    def add_outer(self, slots: Pointer, kz: Value, ko: Value, guarded: bool) -> None:
        """One outer tap."""
        f, form, o = self.f, self.form, self.form.across
        width = 1 if form.planes else form.lanes
        own = self.weights + (kz * form.kernel[o] + ko) * (self.taps * width)
        tap = ko * form.dilation[o]
        with ExitStack() as stack:
            if form.planes:
                at, masks = self._columns(slots, tap)
                if not self.few:
                    stack.enter_context(f.when(self._touches(tap)))
            else:
                slot = self.places[0] * form.stride[o] + tap
                if self.guarded:
                    stack.enter_context(f.when(self.there(o, slot)))
                at, masks = [slots + slot * self.steps[o]], []
            self.add_along(at, masks, own, guarded)

    def _touches(self, tap: Value) -> Value:
        """Whether a tap of any column of the tile is one that there is."""
        stride, before = self.form.stride[2], self.unit["before", 2]
        first = self.places[0] * stride + tap + before
        last = self.places[-1] * stride + (self.form.lanes - 1) * stride + tap + before
        return (last >= 0) & (first < self.unit["most", 2])

    def _columns(self, slots: Pointer, tap: Value) -> tuple[list[Pointer], list[list[Value]]]:
        """Where the columns of a tap begin, per vector, and masks of those that there are."""
        f, form, lanes = self.f, self.form, self.form.lanes
        stride = form.stride[2]
        if not form.direct:
            if stride > 1:
                tap = tap % stride * self.half + tap // stride
            return [slots + tap + place for place in self.places], []
        at, masks = [], []
        for place in self.places:
            first = place * stride + tap
            at.append(slots + first)
            column = first + self.unit["before", 2]
            masks.append(
                [
                    f.between(column + n * lanes, self.unit["most", 2], lanes)
                    for n in range(stride)
                ]
            )
        return at, masks

    def load(self, at: Pointer, masks: list[Value]) -> Value:
        """One vector of a slot."""
        f, lanes = self.f, self.form.lanes
        if not masks:
            return at.vector(0, lanes)
        parts = [f.load_where(at, n * lanes, mask) for n, mask in enumerate(masks)]
        if len(parts) == 1:
            return parts[0]
        return f.shuffle(*parts, list(range(0, 2 * lanes, 2)))

    def weight(self, own: Pointer, tap: int) -> Value:
        """The weight of one tap along the tile, in every lane or one a lane."""
        lanes = self.form.lanes
        return self.f.splat(own[tap], lanes) if self.form.planes else own.vector(tap * lanes, lanes)

    def add_along(
        self, at: list[Pointer], masks: list[list[Value]], own: Pointer, guarded: bool
    ) -> None:
        """One outer tap, all taps along: FEW at a time, whose weights stay in registers and for
        which each slot is loaded once. Where a weight serves several vectors it is read when needed.
        """
        f, form, u = self.f, self.form, self.form.along
        chunk = self.taps if len(at) > 1 else FEW
        first, before, hold = self.r * form.stride[u], 0, self.few or len(at) == 1
        pieces = [
            (begin, *piece)
            for begin in range(0, self.taps, chunk)
            for piece in form.uses(len(self.sums), begin, chunk).items()
        ]
        begun, held = -1, dict[int, Value]()
        for begin, slot, pairs in pieces:
            if hold and begin != begun:
                taps = range(begin, min(begin + chunk, self.taps))
                begun, held = begin, {tap: self.weight(own, tap) for tap in taps}
            at = [pointer + self.steps[u] * (slot - before) for pointer in at]
            before = slot
            with ExitStack() as stack:
                if guarded:
                    stack.enter_context(f.when(self.there(u, first + slot)))
                xs = [self.load(p, masks[n] if masks else []) for n, p in enumerate(at)]
                for output, tap in pairs:
                    w = held[tap] if hold else self.weight(own, tap)
                    for x, total in zip(xs, self.sums[output], strict=True):
                        total.set(f.fma(x, w, total.get()))

    def store(self, y: Pointer) -> None:
        """Write the outputs that there are, the others where nobody reads; adding 0 turns -0 into
        0, as in konv.kernels.microtile.
        """
        f, form, job, unit = self.f, self.form, self.job, self.unit
        u, o, lanes = form.along, form.across, form.lanes
        dump = (unit.pointer("scratch", I8) + job["at_dump"]).cast(y.element)
        line = y + self.z * job["y_stride", 0] + self.r * job["y_stride", u]
        stores = []
        for output, sums in enumerate(self.sums):
            there = self.r + output * form.apart < unit["length", u]
            for place, total in zip(self.places, sums, strict=True):
                to = line + place * job["y_stride", o]
                stores.append((f.select_pointer(there, to, dump), total.get() + 0.0))
            line = line + job["y_stride", u] * form.apart
        if not form.planes:
            for to, value in stores:
                to.put(0, value)
            return
        mask = f.below(unit["length", 2], lanes)
        if form.direct:
            for to, value in stores:
                f.store_where(to, 0, value, mask)
            return
        with f.choose(unit["length", 2] >= lanes) as (whole, narrow):
            with whole:
                for to, value in stores:
                    to.put(0, value)
            with narrow:
                for to, value in stores:
                    f.store_where(to, 0, value, mask)
