"""Filling a strip, and packing weights for it: where padding, modes and strides of columns end.

    planes    [slot z][slot y][column phase][column]   a row of the input at a time, in vectors
    pencils   [slot z][slot y][slot x][lane]           a pixel at a time, one vector of channels

A column phase holds every stride-th column, so that neighbouring outputs read neighbouring slots.
What a vector writes beyond its row is written again later, or lies in the room behind the row.
"""

from __future__ import annotations

from math import prod
from typing import Any

from konv.kernels.pack import HEADER, Arguments, alone, note
from konv.kernels.pack import emit_pack as emit_frame
from konv.kernels.strips.form import Form
from konv.kernels.strips.job import strip_function, strip_of
from konv.kernels.words import Words
from konv.llvm import (
    I64,
    REAL,
    SIZE,
    Function,
    Module,
    Pointer,
    Routine,
    Value,
    Variable,
    pointer_to,
)
from konv.plan import Plan


def emit_fold(module: Module) -> Routine:
    """fold(source, size, mode) -> the pixel it stands for by the padding mode, or -1."""
    with module.function(
        "fold", [("source", I64), ("size", I64), ("mode", I64)], I64, inline=False
    ) as (f, (source, size, mode)):
        i = f.var(source)
        with f.when(mode.equals(1)):  # reflect: about the first and the last pixel
            away = f.select(source < 0, 0 - source, source)
            i.set(f.select(away >= size, (size - 1) * 2 - away, away))
        with f.when(mode.equals(2)):  # replicate
            i.set(f.most(f.least(source, size - 1), f.integer(0)))
        with f.when(mode.equals(3)):  # circular
            near = f.select(source < 0, source + size, source)
            i.set(f.select(near >= size, near - size, near))
        found = i.get()
        f.give(f.select((found >= 0) & (found < size), found, -1))
        return f.fn


def emit_rows_fill(module: Module, plan: Plan) -> Routine:
    """fill(job, unit, x): the strip of one channel, rows of planes."""
    form = Form.of(plan, module.target.lanes(plan.dtype))
    real, fold = REAL[plan.dtype], emit_fold(module)
    half, row = form.half(plan.pixels == 1), form.row(plan.pixels == 1)
    clear = _emit_clear(module, plan, form, half)
    copy = _emit_copy(module, plan, form, half, fold)
    with strip_function(module, "fill", ("x",)) as (f, job, unit, (x,)):
        to, source = strip_of(job, unit, real), x.to_pointer(real)
        with f.loop(unit["slots", 0]) as z, f.loop(unit["slots", 1]) as r:
            line = to + (z * unit["slots", 1] + r) * row
            deep = f.call(fold, [unit["raw", 0] + z, job["size", 0], job["mode"]])
            high = f.call(fold, [unit["raw", 1] + r, job["size", 1], job["mode"]])
            with f.choose((deep | high) < 0) as (padding, inside):
                with padding:
                    f.call(clear, [line, f.integer(0), unit["slots", 2]])
                with inside:
                    at = source + deep * job["x_stride", 0] + high * job["x_stride", 1]
                    f.call(copy, [job.base, unit.base, line, at])
        return f.fn


def _emit_clear(module: Module, plan: Plan, form: Form, half: int) -> Routine:
    """clear(row, first, end): zeros in the columns from `first` up to `end`, or a bit further."""
    real, lanes, stride = REAL[plan.dtype], form.lanes, form.phases
    params = [("row", pointer_to(real)), ("first", I64), ("end", I64)]
    with module.function("clear", params, inline=False) as (f, (row, first, end)):
        zero = f.zero(real, lanes)
        for phase in range(stride):
            begin = (first + (stride - 1 - phase)) // stride
            stop = (end + (stride - 1 - phase)) // stride
            with f.loop(stop, start=begin, step=lanes) as i:
                row.put(i + phase * half, zero)
        return f.fn


def _emit_copy(module: Module, plan: Plan, form: Form, half: int, fold: Routine) -> Routine:
    """copy(job, unit, row, source): one row of the input, its padding on both sides."""
    real, stride = REAL[plan.dtype], form.phases
    clear = module.routines["clear"]
    with strip_function(module, "copy", ("row", "source")) as (f, job, unit, args):
        row, source = (a.to_pointer(real) for a in args)
        raw, size, slots = unit["raw", 2], job["size", 2], unit["slots", 2]
        left = f.least(f.most(0 - raw, f.integer(0)), slots)
        end = f.least(f.most(size - raw, f.integer(0)), slots)
        with f.when(left > 0):
            f.call(clear, [row, f.integer(0), left])
        with f.choose(job["dense"].differs(0)) as (dense, spread):
            with dense:
                _copy_dense(f, form, row, source + raw, left, end, half)
            with spread, f.loop(end, start=left) as i:
                row[_place(i, stride, half)] = source[_column(form, job, raw + i)]
        with f.when(end < slots):
            f.call(clear, [row, end, slots])
        with f.when(job["mode"].differs(0)):
            for first, stop in ((f.integer(0), left), (end, slots)):
                with f.loop(stop, start=first) as i:
                    at = f.call(fold, [raw + i, size, job["mode"]])
                    with f.when(at >= 0):
                        row[_place(i, stride, half)] = source[at * job["x_stride", 2]]
        return f.fn


def _column(form: Form, job: Words, i: Value) -> Value:
    """Where a column of a row lies in the input."""
    if not form.beside:
        return i * job["x_stride", 2]
    pixel = i // form.beside
    return pixel * job["x_stride", 2] + (i - pixel * form.beside)


def _place(i: Value, stride: int, half: int) -> Value:
    """Where a column of a row lies in the strip."""
    return i if stride == 1 else i % stride * half + i // stride


def _copy_dense(
    f: Function, form: Form, row: Pointer, source: Pointer, left: Value, end: Value, half: int
) -> None:
    """Columns `left` to `end` of a row of neighbours, in vectors; what they write behind `end` is
    0, or written later.
    """
    lanes, stride = form.lanes, form.phases
    start = left
    if stride > 1:  # whole rounds of phases: single columns up to the first
        start = f.least((left + (stride - 1)) // stride * stride, end)
        with f.loop(start, start=left) as i:
            row[_place(i, stride, half)] = source[i]
    at = f.var(start)
    with f.loop(end - (stride * lanes - 1), start=start, step=stride * lanes) as i:
        parts = [source.vector(i + n * lanes, lanes) for n in range(stride)]
        put(f, form, row, i, parts, half)
        at.set(i + stride * lanes)
    i = at.get()
    with f.when(i < end):
        parts = [
            f.load_masked(source + (i + n * lanes), f.below(end - i - n * lanes, lanes))
            for n in range(stride)
        ]
        put(f, form, row, i, parts, half)


def put(f: Function, form: Form, row: Pointer, i: Value, parts: list[Value], half: int) -> None:
    """Store vectors of neighbouring columns, of a stride of 2 the even and the odd ones apart."""
    if form.phases == 1:
        row.put(i, parts[0])
        return
    for phase in range(2):
        lanes = [2 * n + phase for n in range(form.lanes)]
        row.put(i // 2 + phase * half, f.shuffle(parts[0], parts[1], lanes))


def emit_pack(module: Module, plan: Plan) -> None:
    """Add `pack`: per line [z][across][along] of single weights or of vectors, then all biases.

    The last vector of pencils ends with the last channel, so some channels may be in two. Channels
    side by side are one line, and follow each other in turn.
    """
    form, real = Form.of(plan, module.target.lanes(plan.dtype)), REAL[plan.dtype]
    lanes = form.numbers

    def body(f: Function, a: Arguments, unit: Value) -> None:  # noqa: ARG001 - there is one
        broken = Variable(f, f.constant(real, 0.0))
        out, channels = f.var(HEADER // SIZE[real]), a["groups"] * a["co"]

        def channel_of(line: Value, lane: Value) -> Value:
            return lane % form.beside if form.beside else f.least(line, channels - lanes) + lane

        with f.loop(channels, step=form.beside or lanes) as line:
            with f.loop(lanes) as lane:
                # Once for all taps, as a division takes longer than all else that is done for one:
                # 960 channels of 3x3 in 18 us instead of 24 to 30 (Zen 3).
                channel, at = channel_of(line, lane), f.var(out.get() + lane)
                group = channel // a["co"]
                own = group * a["by_group"] + (channel - group * a["co"]) * a["by_co"]
                with _taps(f, form) as tap:
                    value = a["weights"][own + tap * a["by_tap"]]
                    broken.set(f.fma(value, f.constant(real, 0.0), broken.get()))
                    a["packed"][at.get()] = value
                    at.add(lanes)
            out.add(lanes * prod(form.kernel))
        with f.loop(channels, step=form.beside or lanes) as line, f.loop(lanes) as lane:
            to = a["packed"] + out.get()
            to[0] = 0.0
            with f.when(a["bias"].address().differs(0)):
                to[0] = a["bias"][channel_of(line, lane)] + 0.0
            out.add(1)
        note(f, a["packed"], broken)

    emit_frame(module, plan.dtype, alone, body)


class _taps:  # noqa: N801 - used like a loop
    """The numbers of all taps in the order in which a sweep adds them."""

    def __init__(self, f: Function, form: Form) -> None:
        self.f, self.form = f, form
        self.loops: list[Any] = []

    def __enter__(self) -> Value:
        form = self.form
        order = (0, form.across, form.along)
        inner = {0: form.kernel[1] * form.kernel[2], 1: form.kernel[2], 2: 1}
        number = self.f.integer(0)
        for axis in order:
            loop = self.f.loop(form.kernel[axis])
            number = number + loop.__enter__() * inner[axis]
            self.loops.append(loop)
        return number

    def __exit__(self, *error: Any) -> None:
        for loop in reversed(self.loops):
            loop.__exit__(*error)
