"""The loops of konv.kernels.gradient.rows along rows of outputs, for one channel.

    pass: some rows of the kernel, some taps of each
        for tile: a few rows of outputs, one below the other:
            for vector of outputs whose taps all lie in the image:         THE LOOP
                load dy of each row
                for row of x, for tap: load x; multiply-add it into all sums that it belongs to
            for vector beside those: the same, masked
        add the sums to those of the box

In steps of two a vector of a tap is each second number of two vectors of x. They are brought
together within 128 bits, one instruction, which leaves the outputs in another order; dy is brought
into the same one. Nothing is seen of it: all lanes are added up in the end.

Multiply-adds bind it (3x3 in rows of three: 27 of them for 18 loads). LLVM would load early and
spill, so each product is asked for before anything behind it is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

from konv.kernels.gradient.depthwise import CHAINS, Window, readers
from konv.kernels.gradient.records import RECORDS
from konv.kernels.words import Piece, part_function
from konv.llvm import I64, INTEGER, REAL, SIZE, Function, Module, Pointer, Routine, Value, Variable
from konv.plan import Plan
from konv.target import Target

BLOCK = 16  # bytes within which lanes change places in one instruction everywhere
HEAD = 1  # words before the masks of what is listed of a vector


@dataclass(frozen=True, slots=True)
class Form(Window):
    """What a plan's loops are specialised on: a tile is a vector in some rows of outputs."""

    @property
    def ahead(self) -> int:
        """Columns of x from a vector of outputs to the next."""
        return self.lanes * self.stride[2]

    @property
    def reach(self) -> int:
        """Columns from the first that a vector of outputs loads to the last."""
        return (self.kernel[2] - 1) * self.dilation[2] + self.ahead - 1

    def lines(self, outputs: int, rows: int) -> dict[int, list[tuple[int, int]]]:
        """Row of x, counted from a tile's first -> (row of outputs, row of the kernel) that read
        it; ascending.
        """
        return readers(outputs, rows, self.stride[1], self.dilation[1])

    def sources(self, taps: int) -> list[tuple[int, bool]]:
        """For each tap, the tap at whose column its vector is loaded, and whether it is made of the
        odd numbers from there on.

        >>> Form((1, 3, 3), (1, 2, 2), (1, 1, 1), 3, 3, 1, 8).sources(3)
        [(0, False), (0, True), (2, False)]
        """
        found: list[tuple[int, bool]] = []
        for tap in range(taps):
            odd = self.stride[2] == 2 and self.dilation[2] == 1 and tap % 2 == 1
            found.append((tap - 1, True) if odd else (tap, False))
        return found


def room(target: Target, stride: int) -> int:
    """Registers for sums and dy: others hold what is loaded of x, and what is made of it. Of 32
    LLVM spills some beyond 26.
    """
    return min(target.registers - 1, 26) - stride


def turns(outputs: int, sums: int, registers: int) -> int:
    """Sums of each tap that take turns, where chains of multiply-adds are few."""
    return max(1, min(outputs, -(-CHAINS // sums), (registers - outputs) // sums))


def dealt(lanes: int, block: int, first: int) -> list[int]:
    """Each second number of two vectors from `first` on, moved within blocks only.

    >>> dealt(8, 4, 0)
    [0, 2, 8, 10, 4, 6, 12, 14]
    """
    return [
        vector * lanes + begin + place
        for begin in range(0, lanes, block)
        for vector in range(2)
        for place in range(first, block, 2)
    ]


def emit_pass(module: Module, plan: Plan, outputs: int, rows: int, taps: int) -> Routine:
    """pass(job, unit, row, tap, x, raw, dy, sums, begin, end): rows of outputs from begin to end,
    so many in a tile, with so many rows of the kernel and taps of each. Apart, so that nothing else
    needs registers.

    row     of the kernel, the first of those; tap: the first of each
    x       the plane that they read
    raw     row of the plane that output row 0 and kernel row 0 read
    dy      of output row 0
    sums    of the channel and kernel plane, all taps
    """
    labels = ("row", "tap", "x", "raw", "dy", "sums", "begin", "end")
    name = f"pass_{outputs}x{rows}x{taps}"
    with part_function(module, name, labels, records=RECORDS) as (f, piece, args):
        form = Form.of(plan, module.target.lanes(plan.dtype))
        _Pass(f, piece, form, plan, (outputs, rows, taps), args).add()
        return f.fn


class _Pass:
    """A pass while it is emitted."""

    def __init__(
        self, f: Function, piece: Piece, form: Form, plan: Plan, size: tuple[int, int, int],
        args: list[Value],
    ) -> None:  # fmt: skip
        self.f, self.piece, self.form = f, piece, form
        self.job, self.unit, self.real = piece.job, piece.unit, REAL[plan.dtype]
        self.outputs, self.rows, self.taps = size
        self.lines, self.sources = form.lines(*size[:2]), form.sources(size[2])
        row, self.tap, x, self.raw, dy, sums, self.begin, self.end = args
        self.column = self.unit["raw", 2] + self.tap * form.dilation[2]
        self.x, self.dy = x.to_pointer(self.real), dy.to_pointer(self.real)
        self.raw = self.raw + row * form.dilation[1]
        self.zeros = piece.part("at_zeros", self.real)
        self.out = sums.to_pointer(self.real) + (row * form.kernel[2] + self.tap) * form.lanes
        self.block = BLOCK // SIZE[self.real]

    def add(self) -> None:
        """All tiles."""
        f, form = self.f, self.form
        zero, registers = f.zero(self.real, form.lanes), room(f.module.target, form.stride[2])
        count = turns(self.outputs, self.rows * self.taps, registers)
        self.sets = [
            [_variables(f, zero, self.taps) for _ in range(self.rows)] for _ in range(count)
        ]
        with f.loop(self.end, start=self.begin, step=self.outputs) as h:
            self._tile(h)
        for m in range(self.rows):
            for t in range(self.taps):
                place = (m * form.kernel[2] + t) * form.lanes
                total = self.out.vector(place, form.lanes)
                for one in self.sets:
                    total = total + one[m][t].get()
                self.out.put(place, total)

    def _tile(self, h: Value) -> None:
        """Rows of outputs from h on."""
        f, job, form = self.f, self.job, self.form
        first = self.raw + h * form.stride[1]
        lines: dict[int, Pointer] = {}
        for line in self.lines:
            high = first + line
            there = f.below_unsigned(high, job["size", 1])
            row = f.select_pointer(there, self.x + high * job["x_stride", 1], self.zeros)
            lines[line] = row + self.column
        dy = [self.dy + (h + p) * job["y_stride", 1] for p in range(self.outputs)]
        with f.loop(self.unit["inner1"], start=self.unit["inner0"], step=form.lanes) as i:
            self._vector(i, lines, dy, None)
        listed = self.piece.part("at_beside", I64)
        with f.loop(self.unit["beside"]) as number:
            entry = listed + number * entry_words(form, SIZE[self.real])
            masks = (entry + HEAD).cast(INTEGER[self.real])
            self._vector(entry[0], lines, dy, masks)

    def _vector(
        self, i: Value, lines: dict[int, Pointer], dy: list[Pointer], masks: Pointer | None
    ) -> None:
        """Products of the outputs i and following of each row; `masks`: which are there, and which
        numbers of x each tap may load.
        """
        f, form = self.f, self.form
        step, lanes, block = form.stride[2], form.lanes, self.block

        def load(p: Pointer, mask: Value | int) -> Value:
            return (
                p.vector(0, lanes) if masks is None else f.load_masked(p, self._mask(masks, mask))
            )

        gradients = [load(p + i, 0) for p in dy]
        if step == 2:
            order = [n // 2 for n in dealt(lanes, block, 0)]
            gradients = [f.shuffle(v, v, order) for v in gradients]
        for line, users in self.lines.items():
            at = lines[line] + i * step
            loaded: list[Value] = []
            for t, (source, odd) in enumerate(self.sources):
                if not odd:
                    place = at + source * form.dilation[2]
                    number = (self.tap + source) * step + 1
                    loaded = [load(place + n * lanes, number + n) for n in range(step)]
                x = loaded[0]
                if step == 2:
                    x = f.shuffle(loaded[0], loaded[1], dealt(lanes, block, int(odd)))
                for p, m in users:
                    total = self.sets[p % len(self.sets)][m][t]
                    total.set(f.now(f.fma(x, gradients[p], total.get())))

    def _mask(self, masks: Pointer, number: Value | int) -> Value:
        lanes = self.form.lanes
        return masks.vector(number * lanes, lanes) < 0


def _variables(f: Function, zero: Value, count: int) -> list[Variable]:
    return [Variable(f, zero) for _ in range(count)]


def entry_words(form: Form, size: int) -> int:
    """Words of what is listed of a vector beside the others: its first output, then masks of dy and
    of each load of each tap.
    """
    masks = 1 + form.kernel[2] * form.stride[2]
    return HEAD + masks * form.lanes * size // 8
