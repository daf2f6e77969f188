"""How a layer of few filters is cut into boxes of outputs, and the words of its job."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import lcm, prod

from konv.geometry import ONE, Axis, Conv
from konv.kernels import scratch
from konv.kernels.panels.cut import FAR, ROOM, SAME_SETS, row_numbers
from konv.kernels.panels.cut import JOB as PRODUCTS
from konv.kernels.schedule import ALONE
from konv.plan import Plan, Strides, Work
from konv.target import BYTES, Target

# The words of konv.kernels.panels come first, which its parts work from; `y_channel` is there the
# numbers from a tap's products to the next tap's.
JOB = (
    *PRODUCTS,
    "filters", "taps",  # output channels; taps of a filter
    "dense",  # 1 if rows of the image follow one another
    "piece",  # pixels that are multiplied at once
    "out_channel", "out_batch",  # strides of the output, in elements
    "line",  # numbers from a phase's row of sums to the next phase's
    "at_products", "at_row",  # bytes into the thread's scratch
    *(f"{name}_{axis}" for axis in range(2) for name in (
        "size", "kernel", "x", "out",  # the image's, taps, strides in elements
        "count", "box", "boxes",  # outputs of a phase, of those in a unit, units
        "least", "most",  # of what an output reads, counted from its number
        "outputs", "phases", "at_phases",  # of the output; how many; word where their records begin
    )),
)  # fmt: skip

# Outputs first + step * j; taps, and the word where their list begins: number, source of output 0.
PHASE = ("first", "step", "outputs", "reach", "at_taps")
TAP = 2
# Of a second-level cache, what the products of a box may fill; and bytes, however large that is.
PART, NEAR = 3, 4 * 1024 * 1024
# So many times as long takes a pixel in parts of rows, which are multiplied one by one, each with
# an end of its own (128->3@512: 15.8 ms, in rows 12.1 of 1.22 times as many; Granite Rapids).
PARTS = 1.4


def reach(conv: Conv) -> int:
    """Numbers of the products that the first output of each filter and phase reads."""
    pixels = prod(-(-axis.extent // axis.up) for axis in conv.axes)
    return pixels * conv.co * prod(axis.kernel for axis in conv.axes)


def _sizes(count: int) -> list[int]:
    """Of a box along an axis of so many outputs: in one piece, 2, 3, 4, 6, 8, 12 and so on."""
    pieces = [1, *(step << n for n in range(count.bit_length()) for step in (2, 3))]
    return sorted({-(-count // piece) for piece in pieces}, reverse=True)


@dataclass(frozen=True, slots=True)
class Span:
    """An axis as boxes see it: outputs of the largest phase, pixels, and how many more of these
    than outputs a box reads. `whole`: one box has all pixels, whatever it reads.
    """

    count: int
    size: int
    more: int
    whole: bool

    def seen(self, box: int) -> int:
        """Pixels whose products a box of so many outputs has."""
        whole = self.whole and box == self.count
        return self.size if whole else min(self.size, box + self.more)


@lru_cache(256)  # a layer asks for each of its plans, and each time it is chosen
def _cheapest(spans: tuple[Span, Span], images: int, threads: int, room: int) -> tuple[int, int]:
    """Outputs of a phase along both axes that cost all threads least, of the boxes whose pixels
    find room; if none do, those that have the fewest.
    """
    rows, columns = spans
    best: tuple[float, tuple[int, int]] | None = None
    for along in _sizes(columns.count):
        parts = PARTS if rows.count > 1 and along < columns.count else 1.0
        for down in _sizes(rows.count):
            pixels = rows.seen(down) * columns.seen(along)
            boxes = images * -(-rows.count // down) * -(-columns.count // along)
            price = -(-boxes // threads) * pixels * parts * max(1.0, pixels / room) ** 2
            if best is None or price < best[0]:
                best = price, (down, along)
    assert best is not None
    return best[1]


class Cut:
    """The boxes of a layer: rows, and parts of them where the cache has room for few."""

    def __init__(self, conv: Conv, plan: Plan, target: Target, threads: int) -> None:
        self.conv, self.plan, self.target = conv, plan, target
        self.threads = 1 if conv.exact_macs < ALONE else threads
        self.axes: tuple[Axis, ...] = ((ONE,) * 2 + conv.axes)[-2:]
        self.phases = [tuple(axis.phases()) for axis in self.axes]
        reads = [[s for phase in phases for s in phase.sources] or [0] for phases in self.phases]
        self.least, self.most = [min(read) for read in reads], [max(read) for read in reads]
        self.count = [max(phase.count for phase in phases) for phases in self.phases]
        self.rows = conv.co * prod(axis.kernel for axis in conv.axes)
        room = max(1, min(target.l2 // PART, NEAR) // (self.rows * BYTES[plan.dtype]))
        down, along = (
            Span(self.count[a], axis.size, self.most[a] - self.least[a], a == 1)
            for a, axis in enumerate(self.axes)
        )
        self.box = _cheapest((down, along), conv.n, self.threads, room)
        self.seen = down.seen(self.box[0]) * along.seen(self.box[1])  # pixels of a box

    @property
    def boxes(self) -> list[int]:
        return [-(-count // box) for count, box in zip(self.count, self.box, strict=True)]

    @property
    def pixels(self) -> int:
        """Pixels that all boxes of an image multiply."""
        return prod(self.boxes) * self.seen

    def work(self, x: Strides, y: Strides) -> Work:
        """The words of the job; strides in elements."""
        conv, plan, size = self.conv, self.plan, BYTES[self.plan.dtype]
        lanes, ci = self.target.lanes(plan.dtype), conv.ci
        x, y = (s[:2] + (0,) * (4 - len(s)) + s[2:] for s in (x, y))
        boxes = self.boxes
        far = conv.n * conv.ci * prod(axis.size for axis in conv.axes) * size >= FAR
        runs = far and x[3] == 1 and x[1] * size % SAME_SETS == 0
        panel, wide = ci * plan.pixels + scratch.LINE // size, plan.pixels
        full = max(1, (ROOM << runs) // (ci * wide * size))
        row, some = row_numbers(ci, size), lcm(*plan.form)
        # An odd number of cache lines from a tap's products to the next: they share few sets else.
        plane = (-(-(self.seen + lanes) * size // scratch.LINE) | 1) * scratch.LINE // size
        words = dict.fromkeys(JOB, 0) | {
            "units": conv.n * prod(boxes),
            "rows": max(some, self.target.l2 // 4 // (row * size) // some * some),
            "ci": ci, "panel": panel, "far": far, "runs": runs, "piece": full * wide,
            "x_batch": x[0], "x_channel": x[1], "x2": x[3], "y_channel": plane,
            "filters": conv.co, "taps": self.rows // conv.co,
            "dense": boxes[1] == 1 and (self.axes[0].size == 1 or x[2] == x[3] * self.axes[1].size),
            "out_batch": y[0], "out_channel": y[1], "line": (-(-self.box[1] // lanes) + 1) * lanes,
        }  # fmt: skip
        tables: list[int] = []
        for a, axis in enumerate(self.axes):
            words |= {
                f"size_{a}": axis.size, f"kernel_{a}": axis.kernel, f"x_{a}": x[2 + a],
                f"out_{a}": y[2 + a], f"count_{a}": self.count[a], f"box_{a}": self.box[a],
                f"boxes_{a}": boxes[a], f"least_{a}": self.least[a], f"most_{a}": self.most[a],
                f"outputs_{a}": axis.out, f"phases_{a}": len(self.phases[a]),
                f"at_phases_{a}": len(JOB) + len(tables),
            }  # fmt: skip
            lists = len(JOB) + len(tables) + len(PHASE) * len(self.phases[a])
            behind: list[int] = []
            for p in self.phases[a]:
                tables += [p.first, p.step, p.count, len(p.taps), lists + len(behind)]
                behind += [n for pair in zip(p.taps, p.sources, strict=True) for n in pair]
            tables += behind
        spare = max(0, len(plan.form) - 2) * lanes * ci
        parts = {
            "at_panels": (full * panel + spare) * size,
            "at_products": self.rows * plane * size,
            "at_row": len(self.phases[1]) * words["line"] * size,
        }
        words["thread_bytes"] = scratch.lay_out(words, parts)
        return Work([*map(int, words.values()), *tables], self.threads, words["thread_bytes"])
