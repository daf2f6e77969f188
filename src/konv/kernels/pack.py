"""The frame of `pack`: weights into the form that a kernel reads, by all threads of a team.

    pack(job, weights, bias, packed, scratch, team, threads)     as `run` of konv.kernels.region

`job` points at the words NUMBERS; strides are in elements, of one group; bias may be null. Threads
take units one by one, a unit being what an algorithm says: mostly a block of output channels. A
kernel packs once for weights that stay, but for every step of training: one thread took 4.7 ms for
512 x 512 x 3 x 3, and the layer 2.5.

The first word of packed weights is 1 if taps of padding may be left out. It is 1 before anything is
packed, and whoever meets a number that is not finite writes 0, if it leaves any out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from konv.kernels.region import emit_entry, emit_units
from konv.kernels.stored import element
from konv.kernels.words import Words
from konv.llvm import I64, REAL, Function, Module, Pointer, Value, Variable

TRANSFORMED = 256 << 20  # bytes of transformed weights at most
HEADER = 64  # bytes before the packed weights; word 0: as above
NUMBERS = ("groups", "co", "ci", "taps", "by_co", "by_ci", "by_tap", "by_group")
WEIGHTS = ("weights", "bias", "packed", *NUMBERS)

Arguments = dict[str, Any]  # by the names of WEIGHTS; the first three are pointers


def emit_pack(
    module: Module,
    dtype: str,
    units: Callable[[Function, Arguments], Value],
    body: Callable[[Function, Arguments, Value], None],
    cold: bool = False,
) -> None:
    """Add `pack`: body(f, arguments, unit) packs one of units(f, arguments) pieces; `cold`: by
    functions that it calls.
    """

    def work(f: Function, call: Words, thread: Value) -> None:
        job = Words(call.pointer("job", I64), NUMBERS)
        a: Arguments = {name: job[name] for name in NUMBERS}
        a["weights"] = call.pointer("x", element(dtype))
        a["bias"] = call.pointer("weights", element(dtype))
        a["packed"] = call.pointer("y", REAL[dtype])
        emit_units(f, call, thread, units(f, a), lambda unit: body(f, a, unit))

    emit_entry(module, work, name="pack", cold=cold, plain=not cold)


def alone(f: Function, a: Arguments) -> Value:  # noqa: ARG001 - as emit_pack asks
    """All in one unit, where weights are few."""
    return f.integer(1)


def note(f: Function, packed: Pointer, broken: Variable) -> None:
    """Forbid to leave out taps if `broken`, a sum of 0 x weight, says that some are not finite."""
    with f.when(broken.get().equals(0.0).equals(0)):
        packed.cast(I64)[0] = 0


def put_biases(f: Function, a: Arguments, out: Pointer, each: int, lanes: int) -> None:
    """All biases, behind the weights, of which a channel has so many."""
    channels = a["groups"]
    padded = (channels + (lanes - 1)) // lanes * lanes
    biases = out + padded * each
    with f.loop(channels, step=lanes) as line, f.loop(lanes) as lane:
        biases[line + lane] = 0.0
        with f.when(a["bias"].address().differs(0)):
            biases[line + lane] = a["bias"][f.least(line, channels - lanes) + lane] + 0.0
