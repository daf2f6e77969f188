"""How a depthwise layer is cut into boxes and lines for konv.kernels.strips: the words of its job.

Nothing here changes a result. A strip shall fit into the first-level cache, but for kernels so
large that most of it would be halo; and there should be some units for each thread.
"""

from __future__ import annotations

from math import prod

from konv.geometry import ONE, Conv
from konv.kernels import schedule, scratch
from konv.kernels.schedule import MODES
from konv.kernels.scratch import LINE
from konv.kernels.strips.along import Along
from konv.kernels.strips.form import (
    ABREAST,
    ENDLESS,
    PAIR,
    STACK,
    TALL,
    THERE,
    Form,
    banded,
    beside,
    paired,
    slides,
    walks,
)
from konv.kernels.strips.interlaced import as_plane, as_rows
from konv.kernels.strips.job import JOB, words_of_axes
from konv.plan import Plan, Strides, Work
from konv.target import BYTES, Target

ROOM = 32 * 1024  # bytes of a strip: the smallest first-level cache in use
HALO = (
    1.7  # slots for each pixel of the input that the outputs stand for, beyond which no more cuts
)
UNITS = 8  # for each thread
# Multiply-adds of a unit of lines that are read where they lie, about 2 us: a thread that is done
# helps with units of another, and takes their lines of the cache away from it: 192@14x28 took 13.4
# us in 16 units and 10.0 in 4, 192@28 20 and 17 (Granite Rapids, 2 threads).
GRAIN = 150_000
# Rows under a tile up to which it is computed for all lines in turn even if images are not as far
# (Zen 3, channels-last: 144@56 3x3 0.144 to 0.115 ms, but 240@28 5x5 s2 0.046 to 0.059), and bytes
# of those rows: from 24 to 400 KB, all within 5 %.
FEW_ROWS, NEAR = 3, 64 * 1024
# Bytes of images and results from which on strided layers go by stacks of rows, too (Zen 3, two
# threads: 64@112 3x3 s2, 4 MB, 1.2 to 1.5 times as fast, 144@56 s2, 2.3 MB, .85 to .95).
STRIDED = 3 * 1024 * 1024
PAIRS = 24 * 1024  # bytes of what pairs of rows read and write, of the smallest first-level cache
MANY, WIDE = 8, 14  # lines of a unit, columns, above which what the next lines need is asked for
NARROW, SHORT = 4, 8  # lines of cache of a pixel, rows of a box, below which no more cuts


class _Box:
    """The box of outputs that a unit takes."""

    def __init__(self, conv: Conv, plan: Plan, target: Target) -> None:
        self.lanes = target.lanes(conv.dtype)
        self.form, self.size, self.plan = Form.of(plan, self.lanes), BYTES[conv.dtype], plan
        self.axes = (ONE,) * (3 - len(conv.axes)) + conv.axes
        moved = (prod(conv.in_shape) + prod(conv.out_shape)) * self.size
        self.far = moved >= schedule.FAR
        self.beyond = self.far or (self.form.stride[2] > 1 and moved >= STRIDED)
        self.outer = self.form.kernel[0] * self.form.kernel[1]
        self.out = [axis.out for axis in self.axes]
        self.box = list(self.out)
        self.whole = [1, 1, 1]  # what a cut keeps whole
        self.whole[self.form.along] = plan.pixels * self.form.apart
        if paired(plan):
            self.whole[1] = PAIR * Along.of(self.form, 1).outputs
        if self.form.planes:
            self.whole[2] = plan.vectors * self.lanes
            self.divide(2, -(-self.out[2] // self.form.widest(plan.pixels == 1)))

    def divide(self, axis: int, parts: int) -> None:
        """Cut an axis into about so many even parts; a plane's columns exceed no row for that."""
        length, whole = -(-self.out[axis] // parts), self.whole[axis]
        rounded = -(-length // whole) * whole
        if self.form.planes and axis == 2:
            rounded = min(rounded, self.form.widest(self.plan.pixels == 1))
        self.box[axis] = min(self.out[axis], rounded)

    def boxes(self, axis: int) -> int:
        return -(-self.out[axis] // self.box[axis])

    def slots(self, axis: int, outputs: int) -> int:
        return self.form.slots(axis, outputs)

    def bytes(self) -> int:
        """Of a strip, as far as it is read."""
        each = self.size * (1 if self.form.planes else self.lanes)
        return prod(self.slots(a, n) for a, n in enumerate(self.box)) * each

    def halo(self) -> float:
        """Slots for each pixel that the outputs stand for."""
        return prod(self.slots(a, n) / (n * self.form.stride[a]) for a, n in enumerate(self.box))

    def fit(self, room: int, halo: float) -> None:
        """Cut until a strip fits into the room, or is mostly halo, or is a single tile."""
        free = [0, 1] if self.form.planes else [0, 1, 2]
        while self.bytes() > room:
            open_ = [a for a in free if self.box[a] > self.whole[a]]
            if not open_:
                return
            axis = max(open_, key=lambda a: self.box[a] / self.form.extent(a))
            before = self.box[axis]
            parts = self.boxes(axis) + 1
            while self.box[axis] == before:
                self.divide(axis, parts)
                parts += 1
            if self.halo() > halo:
                self.box[axis] = before
                return

    def walk(self, lines: int, units: int, threads: int) -> int:
        """Cut for tiles that are computed for all lines of a unit: the rows that a tile reads stay
        in a cache, so far as they lie under the box. Returns the lines of a unit,
        fewer only where few columns would be left.
        """
        row = self.lanes * self.size * self.outer
        whole, line = self.whole[2], max(1, LINE // (self.lanes * self.size))
        for pieces in range(1, lines + 1):
            chunk = -(-lines // (pieces * line)) * line
            room = NEAR // (row * chunk)
            columns = (room - self.form.extent(2)) // self.form.stride[2] + 1
            if columns >= min(self.out[2], 2 * whole) or chunk <= NARROW * line:
                break
        self.divide(2, -(-self.out[2] // max(whole, columns // whole * whole)))
        self.share(units, threads, -(-lines // chunk))
        return chunk

    def pairs(self, lines: int, units: int, threads: int) -> int:
        """Cut for pairs of rows. Returns the lines that pairs are completed in before the next:
        what two pairs read and write of them stays in the first-level cache. They are a line of
        the cache or more if whole rows fit, two of parts of a row.
        """
        line = max(1, LINE // (self.lanes * self.size))
        near, row = line, self.out[2]
        while near < lines and self._columns(near + line) >= row:
            near += line
        if self._columns(line) < row or self.form.stride[2] > 1:
            near = max(near, 2 * line)
            parts = -(-row // max(SHORT, self._columns(near)))
            self.box[2] = -(-row // parts)
        self.share(units, threads)
        return min(near, lines)

    def share(self, units: int, threads: int, chunks: int = 1) -> None:
        """Cut rows for so many units, `threads` of them at least if there are rows enough: units
        that differ in their lines alone write the same lines of the cache where pixels begin on
        none, or lie side by side in one (Granite Rapids, 2 threads, 3x3: 384@14 19 to 11 us, 960@7
        15 to 7). Each thread's range shall end between rows.
        """
        others = max(1, prod(map(self.boxes, range(3))) * chunks)
        each, rows = -(-threads // others), self.out[1]
        parts = max(min(-(-units // others), rows // SHORT), min(each, rows // PAIR), 1)
        self.divide(1, parts - parts % each if parts > each else parts)

    def stacks(self, lines: int) -> bool:
        """Whether stacks of rows are for lines that are met together: images come from memory, or
        a strided one from the third-level cache, and what a stack reads and writes stays in the
        first-level cache until the next column (Zen 3: 192@28 1.2 times as fast, 960@14 .8).
        """
        high, taps = Along.of(self.form, 1), self.form.kernel[1] * self.form.kernel[2]
        read = (high.jump * (STACK - 1) + high.taps) * self.form.kernel[2]
        held = lines * (read + taps + 1 + STACK) * self.lanes * self.size
        return paired(self.plan) and self.beyond and held <= PAIRS

    def rows(self, units: int) -> None:
        """Cut for stacks of rows, which take all columns."""
        self.whole[1] = STACK * Along.of(self.form, 1).outputs
        self.divide(1, units)

    def _columns(self, lines: int) -> int:
        """Columns of so many lines that fit into the first-level cache under a pair of rows."""
        along, stride = Along.of(self.form, 1), self.form.stride[2]
        slots = PAIRS // (self.lanes * self.size * lines)
        rows = along.jump + along.taps
        return (slots - rows * (self.form.extent(2) - stride)) // (rows * stride + 2)

    def tall(self) -> int:
        """Rows of tiles whose outputs take turns."""
        rows = -(-self.out[1] // self.form.apart)
        return min(reversed(TALL), key=lambda tall: -(-rows // tall))

    def parts(self) -> dict[str, int]:
        """The parts of a thread's scratch, in bytes."""
        block = prod(self.box) * self.lanes if self.plan.blocked and not self.form.planes else 0
        dump = self.lanes + (self.box[2] if banded(self.plan) else 0)
        parts = {"at_strip": self.bytes_held(), "at_dump": dump * self.size}
        zeros = there = 0
        if self.form.direct and self.form.planes:
            zeros = self.form.zeros(self.box[2])
        elif self.form.direct and not paired(self.plan):
            there = self.form.columns(self.slots(2, self.box[2]), self.plan.pixels) + self.lanes
        more = {"at_zeros": zeros * self.size, "at_there": there * THERE}
        return {**parts, **more, "at_block": block * self.size}

    def bytes_held(self) -> int:
        """Of a strip with all that a tile at its end reads beyond it."""
        form, slots = self.form, [self.slots(a, n) for a, n in enumerate(self.box)]
        beyond = self.whole[form.along] * form.stride[form.along]
        if form.planes:
            row = form.row(self.plan.pixels == 1)
            return (slots[0] * slots[1] + beyond) * row * self.size
        return (prod(slots) + beyond) * self.lanes * self.size


def _countable(conv: Conv) -> bool:
    """Whether the places of pixels fit into the 32 bits that masks are made from."""
    return max(n for a in conv.axes for n in (a.size, a.out, abs(a.lo))) < ENDLESS // 4


def cut(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """The work of `conv` under `plan`."""
    dense = x[-1] == 1 if plan.algorithm == "planes" else x[1] == 1
    if beside(plan):
        dense = x[1] == 1 and x[-1] == conv.co
        conv, y = as_plane(conv), as_rows(y)
        x = as_rows(x) if dense else x
    box = _Box(conv, plan, target)
    if conv.exact_macs < schedule.ALONE:
        threads = 1
    lines = conv.co if box.form.planes else -(-conv.co // box.lanes)
    wanted = UNITS * threads if threads > 1 else 1
    chunk, images = lines, max(1, conv.n)
    few = box.outer <= FEW_ROWS and not box.form.planes
    walk = walks(plan) and dense and conv.mode == "zeros" and (box.far or few)
    near = lines
    part = box.out[2]
    stack = walk and box.stacks(lines)
    if walk and not box.form.planes:
        wanted = min(wanted, max(threads, conv.exact_macs // GRAIN))
    if stack:
        box.rows(-(-wanted // images))
        wanted //= 2  # a pixel's lines lie side by side, so few units share them
    elif walk and paired(plan) and not box.far:
        near = box.pairs(lines, -(-wanted // images), -(-threads // images))
    elif walk and not box.form.planes:  # far images are met in their own order by pairs, too
        near = chunk = box.walk(lines, -(-wanted // images), -(-threads // images))
        part = plan.pixels
    else:
        if not banded(plan):
            box.fit(ROOM, HALO)
        box.fit(max(ROOM, target.l2 // 4 if banded(plan) else target.l2 // 2), float("inf"))
    each = conv.n * prod(map(box.boxes, range(3)))
    # Few channels, or one: threads share rows (Zen 3: 3x3 1@256 1.1 times as fast, 5x5 1@512 1.2)
    if box.form.planes and 0 < each * lines < -(-wanted // 2):
        parts = box.boxes(1) * -(-wanted // (each * lines))
        box.divide(1, min(parts, max(1, box.out[1] // SHORT)))
        each = conv.n * prod(map(box.boxes, range(3)))
    pieces = min(chunk, max(1, -(-wanted // max(1, each * -(-lines // chunk)))))
    chunk = -(-chunk // pieces)
    chunks = -(-lines // chunk)
    words = dict.fromkeys(JOB, 0)
    words |= {
        "units": chunks * each, "chunks": chunks, "chunk": chunk, "lines": lines,
        "channels": conv.co, "multiplier": conv.co // conv.ci, "mode": MODES[conv.mode],
        "zeros": int(conv.mode == "zeros" and _countable(conv)),
        "dense": int(dense),
        "slide": int(slides(plan) and box.out[2] >= ABREAST * box.lanes),
        "tall": box.tall(), "near": near, "part": part, "walk": int(walk), "far": int(box.far),
        "stack": int(stack),
        "ahead": int(walk and chunk >= MANY and box.out[2] > WIDE),
        "x_batch": x[0], "x_channel": x[1], "y_batch": y[0], "y_channel": y[1],
    }  # fmt: skip
    words |= words_of_axes(box.axes, box.box, x, y)
    words["thread_bytes"] = scratch.lay_out(words, box.parts())
    return Work(list(words.values()), threads, words["thread_bytes"])
