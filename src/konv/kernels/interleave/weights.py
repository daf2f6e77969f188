"""Weights of konv.kernels.interleave, a block for each sweep.

    per group, block of channels, sub-pixel of d and h, sub-pixel of w:
        [source of a cell] where its weights begin in the block, -1 if it meets no tap
        [tap][ci][channel]
    then the bias of every channel of every block

All blocks are as long as the longest, so that none has to be looked for. Those of some channels
follow each other, whose sub-pixels have more and fewer taps, so that threads, which take some of
the channels each, have as many (3x3 s2 512->256@7 with all channels of a row of sub-pixels in
turn, a third of the taps for one thread: .77 ms, now .52; Emerald Rapids).
"""

from __future__ import annotations

from konv.kernels.pack import HEADER, Arguments, emit_pack, note
from konv.kernels.subpixel.grid import Grid
from konv.kernels.words import AXES
from konv.llvm import I64, REAL, SIZE, Function, Module, Routine, Value, Variable, pointer_to


def listed(grid: Grid, vector_bytes: int) -> int:
    """Vectors, and so numbers of each channel, that the list of sources takes."""
    return -(-8 * grid.taps // vector_bytes)


def emit_sweep_weights(module: Module, dtype: str, nr: int, grid: Grid) -> None:
    """Add `pack`: a unit is a block, in the order [group][output channels][d][h][w]."""
    real, lanes = REAL[dtype], module.target.lanes(dtype)
    wide, head = nr * lanes, listed(grid, module.target.vector_bytes)
    tap_of = _emit_tap(module, dtype, wide)

    def units(f: Function, a: Arguments) -> Value:  # noqa: ARG001 - as emit_pack asks
        return _blocks(a, grid, wide)

    def body(f: Function, a: Arguments, block: Value) -> None:
        whole = (a["ci"] * grid.full + head) * wide
        to = a["packed"] + HEADER // SIZE[real]
        bias = to + _blocks(a, grid, wide) * whole + block * wide
        _, h, w = grid.steps
        rest, fw = block // w, block % w
        blocks = (a["co"] + (wide - 1)) // wide
        rest, fh = rest // h, rest % h
        rest, fd = rest // grid.steps[0], rest % grid.steps[0]
        g, k0 = rest // blocks, rest % blocks * wide
        here, source = to + block * whole, a["weights"] + g * a["by_group"]
        channels = f.least(a["co"] - k0, wide)
        with f.loop(wide) as k:
            bias[k] = 0.0
        with f.when(a["bias"].address().differs(0)), f.loop(channels) as k:
            bias[k] = a["bias"][g * a["co"] + k0 + k] + 0.0
        at = f.var(head * wide)
        with f.loop(grid.taps) as t:
            taps = [
                step * number + (e - sub)
                for number, step, e, sub in zip(
                    _split(grid, t), grid.steps, grid.first, (fd, fh, fw), strict=True
                )
            ]
            present = taps[0] >= 0
            for axis in AXES:
                present = present & (taps[axis] >= 0) & (taps[axis] < grid.kernel[axis])
            here.cast(I64)[t] = f.select(present, at.get(), -1)
            with f.when(present):
                tap = (taps[0] * grid.kernel[1] + taps[1]) * grid.kernel[2] + taps[2]
                line = source + (tap * a["by_tap"] + k0 * a["by_co"])
                strides = a["by_ci"], a["by_co"]
                f.call(tap_of, [line, here + at.get(), a["ci"], channels, *strides, a["packed"]])
                at.add(a["ci"] * wide)

    emit_pack(module, dtype, units, body, cold=True)


def _emit_tap(module: Module, dtype: str, wide: int) -> Routine:
    """tap(line, to, ci, channels, by_ci, by_co, packed): one tap of a block, `wide` numbers for
    each input channel, zeros behind the last output channel.
    """
    real = REAL[dtype]
    params = [("line", pointer_to(real)), ("to", pointer_to(real))]
    params += [(name, I64) for name in ("ci", "channels", "by_ci", "by_co")]
    params += [("packed", pointer_to(real))]
    with module.function("tap", params, inline=False) as (f, args):
        line, to, ci, channels, by_ci, by_co, packed = args
        broken = Variable(f, f.constant(real, 0.0))
        with f.loop(ci) as c:
            row = to + c * wide
            with f.loop(channels) as k:
                value = line[c * by_ci + k * by_co]
                broken.set(f.fma(value, f.constant(real, 0.0), broken.get()))
                row[k] = value
            with f.loop(wide, start=channels) as k:
                row[k] = 0.0
        note(f, packed, broken)
        return f.fn


def _blocks(a: dict[str, Value], grid: Grid, wide: int) -> Value:
    """Of all groups."""
    return a["groups"] * ((a["co"] + (wide - 1)) // wide) * grid.subpixels


def _split(grid: Grid, t: Value) -> list[Value]:
    """The number of a source on each axis."""
    _, h, w = grid.reach
    return [t // (h * w), t // w % h, t % w]
