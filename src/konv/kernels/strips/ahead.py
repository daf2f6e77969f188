"""What strips ask for before they read it, and the places of their results."""

from __future__ import annotations

from konv.kernels.scratch import LINE
from konv.kernels.strips.form import ABREAST, Form
from konv.kernels.words import AXES, Words
from konv.llvm import SIZE, Function, Pointer, Type, Value


def fetch_rows(
    f: Function,
    job: Words,
    unit: Words,
    form: Form,
    arrays: tuple[Pointer, Pointer],
    at: tuple[Value, Value, Value],
    mr: int,
) -> None:
    """Ask for what the tile below reads and this one does not, and for its places. So many
    short rows at once are more than the prefetchers of a processor follow.
    """
    (slots, y), (z, r, c), u = arrays, at, form.along
    steps = [unit["step", axis] for axis in AXES]
    below = (r + (mr - 1)) * form.stride[u] + ((form.kernel[u] - 1) * form.dilation[u] + 1)
    corner = slots + z * form.stride[0] * steps[0] + below * steps[u] + c * form.stride[2]
    for row in range(mr * form.stride[u]):
        f.prefetch(corner + steps[u] * row)
    out = y + z * job["y_stride", 0] + (r + mr) * job["y_stride", u] + c
    for row in range(mr):
        f.prefetch(out + job["y_stride", u] * row)


def fetch_line(f: Function, job: Words, unit: Words, slots: Pointer, y: Pointer) -> None:
    """Ask for the next line and its places, where rows are narrow. Beside tiles that ask for what
    is below them, which then need not be compiled: 64 images of 512@14 3x3 .93 to 1.08 times as
    fast, of 960@7 1.01 to 1.46; if nothing asks .56 to .83 (Zen 3). A branch in the one sweep for
    it: .86 to .93 of 960@7.
    """
    line = LINE // SIZE[slots.element]
    for at, label, count in ((slots, "x", "slots"), (y, "y", "length")):
        deep = (unit[count, 0] - 1) * job[f"{label}_stride", 0]
        ahead = at + job[f"{label}_channel"]
        with f.loop(deep + unit[count, 1] * job[f"{label}_stride", 1], step=line) as i:
            f.prefetch(ahead + i)


def look_ahead(
    f: Function,
    form: Form,
    unit: Words,
    element: Type,
    place: Value,
    following: tuple[Value, Value],
) -> tuple[list[Value], list[Value]]:
    """Where vectors that slide come to that are next, on the right or in the `following` line; as
    far as they are not in the lines of the cache that these are in. Of slots, and of results.
    """
    across, line = form.stride[2] if form.direct else 1, LINE // SIZE[element]
    wide = ABREAST * form.lanes
    last, more = (wide - 1) * across + form.extent(2) - 1, place + wide < unit["length", 2]
    on = f.select(more, f.integer(wide * across), following[0] - place * across)
    slots = [on + (last - n) for n in range(0, wide * across, line)]
    on = f.select(more, f.integer(wide), following[1] - place)
    return slots, [on + (wide - 1 - n) for n in range(0, wide, line)]
