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
from konv.llvm import I8, I64, REAL, SIZE, Function, Module, Pointer, Routine, Value, Variable
from konv.llvm import pointer_to
from konv.plan import Plan
from konv.target import Target

JOB = (
    "units", "chunks", "chunk", "lines",  # pieces of work; of the lines; lines in one; all of them
    "channels", "multiplier",  # of the output; output channels that read one input channel
    "mode",  # padding: 0 zeros, 1 reflect, 2 replicate, 3 circular
    "x_batch", "x_channel", "y_batch", "y_channel",  # strides, in elements
    "thread_bytes", "at_strip",  # scratch of one thread; its parts, in bytes
    *(f"{name}{axis}" for name in (
        "size", "lo",  # of the input, and pixels of padding before it
        "x_stride", "y_stride",  # in elements
        "out", "box", "boxes",  # outputs: all, in a unit, and units along the axis
    ) for axis in AXES),
)  # fmt: skip

UNIT = (
    "x", "y", "weights", "scratch",  # addresses: image, result, packed weights, thread's scratch
    "skip",  # 1 if taps that lie wholly in the padding may be left out
    "line0", "line1",
    *(f"{name}{axis}" for name in (
        "j", "length",  # first output of the unit, and how many
        "raw", "slots",  # first source, and how many
    ) for axis in AXES),
)  # fmt: skip

WIDEST = 112  # columns of a plane's unit: a whole row of most networks' largest depthwise maps
LONGEST = 1024  # the same where there are no rows
FEW = 7  # taps along a tile whose weights stay in registers; of more, rows of padding are left out
UNROLL = 160  # multiply-adds of a tile up to which the outer taps are unrolled too


@dataclass(frozen=True, slots=True)
class Form:
    """What a plan's inner loops are specialised on, read from `Plan.form`; per axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    lanes: int
    planes: bool

    @classmethod
    def of(cls, plan: Plan, lanes: int) -> Form:
        return cls(plan.form[:3], plan.form[3:6], plan.form[6:9], lanes, plan.packed)

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

    def uses(self, outputs: int) -> dict[int, list[tuple[int, int]]]:
        """slot -> (output, tap) that read it, for a tile along the axis; slots ascend."""
        found: dict[int, list[tuple[int, int]]] = defaultdict(list)
        jump, dilation = self.apart * self.stride[self.along], self.dilation[self.along]
        for output in range(outputs):
            for tap in range(self.kernel[self.along]):
                found[output * jump + tap * dilation].append((output, tap))
        return dict(sorted(found.items()))

    def widest(self, single: bool) -> int:
        """Columns of a unit at most, where a row of the strip has a length known beforehand."""
        return max(LONGEST if single else WIDEST, self.lanes)

    def half(self, single: bool) -> int:
        """Elements of one column phase of a row: its slots, room for a vector more, in an odd
        number of vectors, so that rows do not meet in the same sets of a cache.
        """
        stride = self.stride[2]
        slots = self.widest(single) + (self.extent(2) - 1) // stride + 1 + self.lanes
        vectors = -(-slots // self.lanes)
        return (vectors + 1 - vectors % 2) * self.lanes

    def row(self, single: bool) -> int:
        """Elements from one row of a plane's strip to the next."""
        return self.half(single) * self.stride[2]


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
    unit["skip"] = f.select(job["mode"].equals(0), finite, 0)

    def body(number: Value) -> None:
        chunk, rest = number % job["chunks"], number // job["chunks"]
        for axis in reversed(AXES):
            unit["j", axis] = rest % job["boxes", axis] * job["box", axis]
            rest = rest // job["boxes", axis]
            length = f.least(job["box", axis], job["out", axis] - unit["j", axis])
            unit["length", axis] = length
            unit["raw", axis] = unit["j", axis] * form.stride[axis] - job["lo", axis]
            unit["slots", axis] = (length - 1) * form.stride[axis] + form.extent(axis)
        unit["x"] = call["x"] + rest * job["x_batch"] * size
        unit["y"] = call["y"] + rest * job["y_batch"] * size
        unit["line0"] = chunk * job["chunk"]
        unit["line1"] = f.least(unit["line0"] + job["chunk"], job["lines"])
        f.call(parts["lines"], [job.base, unit.base])

    emit_shares(f, call, thread, job["units"], body)


@contextmanager
def strip_function(
    module: Module, name: str, extra: Sequence[str] = ()
) -> Iterator[tuple[Function, Words, Words, list[Value]]]:
    """A function `name(job, unit, *extra)`, compiled apart."""
    params = [("job", pointer_to(I64)), ("unit", pointer_to(I64)), *((n, I64) for n in extra)]
    with module.function(name, params, inline=False) as (f, args):
        job, unit = Words(args[0], JOB, frozen=True), Words(args[1], UNIT, frozen=True)
        yield f, job, unit, args[2:]


def strip_of(job: Words, unit: Words, element: Any) -> Pointer:
    """The strip of this thread."""
    return (unit.pointer("scratch", I8) + job["at_strip"]).cast(element)


def _emit_lines(module: Module, plan: Plan, parts: dict[str, Routine]) -> Routine:
    """lines(job, unit): each line of the unit, its strip filled and swept."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    taps = form.kernel[0] * form.kernel[1] * form.kernel[2]
    width = 1 if form.planes else lanes
    with strip_function(module, "lines") as (f, job, unit, _):
        weights = unit.pointer("weights", real)
        biases = weights + job["lines"] * (taps * width)
        x, y = unit.pointer("x", real), unit.pointer("y", real)
        with f.loop(unit["line1"], start=unit["line0"]) as line:
            if form.planes:
                source, begin = line // job["multiplier"], line
                fresh = line.equals(source * job["multiplier"]) | line.equals(unit["line0"])
                with f.when(fresh):
                    f.call(parts["fill"], [job.base, unit.base, x + source * job["x_channel"]])
            else:
                begin = f.least(line * lanes, job["channels"] - lanes)
                f.call(parts["fill"], [job.base, unit.base, x + begin])
            own, bias = weights + line * (taps * width), biases + line * width
            f.call(parts["sweep"], [job.base, unit.base, own, bias, y + begin * job["y_channel"]])
        return f.fn


class _Tile:
    """One tile while it is emitted: `sums[output][vector]`, and where its slots and outputs lie."""

    def __init__(self, f: Function, plan: Plan, form: Form, weights: Pointer, bias: Pointer) -> None:
        self.f, self.plan, self.form, self.weights = f, plan, form, weights
        self.count = form.kernel[form.along]
        lanes = form.lanes
        start = f.splat(bias[0], lanes) if form.planes else bias.vector(0, lanes)
        self.start = Variable(f, start)

    def begin(self) -> None:
        start = self.start.get()
        self.sums = [
            [Variable(self.f, start) for _ in range(self.plan.vectors)]
            for _ in range(self.plan.pixels)
        ]

    def weight(self, own: Pointer, tap: int) -> Value:
        """The weight of one tap along the tile, in every lane or one a lane."""
        lanes = self.form.lanes
        if self.form.planes:
            return self.f.splat(own[tap], lanes)
        return own.vector(tap * lanes, lanes)

    def add(self, at: list[Pointer], own: Pointer, step: int, valid: Any) -> None:
        """Multiply-add one outer tap: `at` is where its first slot lies for each vector."""
        lanes = self.form.lanes
        few = self.count <= FEW
        held = [self.weight(own, tap) for tap in range(self.count)] if few else []
        for slot, pairs in self.form.uses(self.plan.pixels).items():
            with ExitStack() as stack:
                if not few:
                    stack.enter_context(self.f.when(valid(slot)))
                xs = [pointer.vector(slot * step, lanes) for pointer in at]
                for output, tap in pairs:
                    w = held[tap] if few else self.weight(own, tap)
                    for x, total in zip(xs, self.sums[output], strict=True):
                        total.set(self.f.fma(x, w, total.get()))


def _emit_sweep(module: Module, plan: Plan) -> Routine:
    """sweep(job, unit, weights, bias, y): all outputs of one line, from its strip."""
    real, lanes = REAL[plan.dtype], module.target.lanes(plan.dtype)
    form = Form.of(plan, lanes)
    u, o, q, mr = form.along, form.across, form.apart, plan.pixels
    with strip_function(module, "sweep", ("weights", "bias", "y")) as (f, job, unit, args):
        weights, bias, y = (a.to_pointer(real) for a in args)
        strip = strip_of(job, unit, real)
        steps = steps_of(plan, form, unit)
        for axis in AXES:
            y = y + unit["j", axis] * job["y_stride", axis]
        tile = _Tile(f, plan, form, weights, bias)
        last = f.most(unit["length", 2] - lanes, f.integer(0)) if form.planes else None
        wide = plan.vectors * lanes if form.planes else 1
        rest = unit["length", u]
        with ExitStack() as stack:
            z = stack.enter_context(f.loop(unit["length", 0]))
            plane = strip + z * form.stride[0] * steps[0]
            y = y + z * job["y_stride", 0]
            c = None
            if not form.planes:
                c = stack.enter_context(f.loop(unit["length", o]))
            phase = stack.enter_context(f.loop(f.least(rest, q))) if q > 1 else f.integer(0)
            r = stack.enter_context(f.loop(rest, start=phase, step=mr * q))
            if c is None:
                c = stack.enter_context(f.loop(unit["length", o], step=wide))
            places = [f.least(c + n * lanes, last) for n in range(plan.vectors)] if last else [c]
            scale = 1 if form.planes else form.stride[o]
            across = 1 if form.planes else steps[o]
            row = plane + r * form.stride[u] * steps[u]
            tile.begin()
            _add_taps(tile, unit, job, [row + p * scale * across for p in places], steps, r, places)
            _store(tile, unit, job, y, r, places)
        return f.fn


def steps_of(plan: Plan, form: Form, unit: Words) -> list[Any]:
    """Elements from one slot of the strip to the next, per axis."""
    if form.planes:
        row = form.row(plan.pixels == 1)
        return [unit["slots", 1] * row, row, 1]
    row = unit["slots", 2] * form.lanes
    return [unit["slots", 1] * row, row, form.lanes]


def _add_taps(
    tile: _Tile,
    unit: Words,
    job: Words,
    at: list[Pointer],
    steps: list[Any],
    r: Value,
    places: list[Value],
) -> None:
    """All taps of a tile: outer ones in loops, or unrolled where they are few."""
    f, form, plan = tile.f, tile.form, tile.plan
    u, o, few = form.along, form.across, tile.count <= FEW
    width = 1 if form.planes else form.lanes
    half = form.half(plan.pixels == 1)
    first = unit["raw", u] + r * form.stride[u]

    def valid(slot: int) -> Value:
        source = first + slot
        outside = (source < 0) | (source >= job["size", u])
        return (outside.equals(0)) | unit["skip"].equals(0)

    def outer(kz: Value | int, ko: Value | int) -> None:
        number = f.integer(kz) * form.kernel[o] + ko
        own = tile.weights + number * (tile.count * width)
        slot: Any = ko * form.dilation[o]
        if form.planes and form.stride[2] > 1:
            stride = form.stride[2]
            slot = slot % stride * half + slot // stride
            here = slot
        else:
            here = slot * steps[o]
        apart = f.integer(kz) * form.dilation[0] * steps[0] + here
        tile.add([p + apart for p in at], own, steps[u], valid)

    depth, taps = form.kernel[0], form.kernel[o]
    with ExitStack() as stack:
        kz = stack.enter_context(f.loop(depth)) if depth > 1 else 0
        if few and tile.count * taps * plan.pixels * plan.vectors <= UNROLL:
            for ko in range(taps):
                outer(kz, ko)
            return
        ko = stack.enter_context(f.loop(taps))
        if not few:
            lanes = form.lanes if form.planes else 1
            source = unit["raw", o] + f.integer(ko) * form.dilation[o]
            low, high = (
                source + p * form.stride[o] for p in (places[0], places[-1] + (lanes - 1))
            )
            inside = (high >= 0) & (low < job["size", o])
            stack.enter_context(f.when(inside | unit["skip"].equals(0)))
        outer(kz, ko)


def _store(
    tile: _Tile, unit: Words, job: Words, y: Pointer, r: Value, places: list[Value]
) -> None:
    """Write the outputs that there are; adding 0 turns -0 into 0, as in konv.kernels.microtile."""
    f, form, plan = tile.f, tile.form, tile.plan
    u, o, q = form.along, form.across, form.apart
    whole = unit["length", 2] >= form.lanes if form.planes else None
    mask = f.below(unit["length", 2], form.lanes) if form.planes else None
    line = y + r * job["y_stride", u]
    for output, sums in enumerate(tile.sums):
        with f.when(r + output * q < unit["length", u]):
            to = line + job["y_stride", u] * (output * q)
            for place, total in zip(places, sums, strict=True):
                at = to + place * job["y_stride", o]
                value = total.get() + 0.0
                if mask is None or whole is None:
                    at.put(0, value)
                    continue
                with f.choose(whole) as (yes, no):
                    with yes:
                        at.put(0, value)
                    with no:
                        f.store_where(at, 0, value, mask)
