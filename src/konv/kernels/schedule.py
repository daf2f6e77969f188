"""One convolution at one image size, cut into units: fills the JOB words that kernels read.

Nothing here changes a result. What a unit holds is a matter of caches: its packed image and one
block's weights shall stay in the second-level cache together, its tables in the first; and there
should be four units a thread or more, so that no thread waits long for the last one.
"""

from __future__ import annotations

from bisect import bisect_left
from math import prod

from konv.geometry import Axis, Conv
from konv.kernels import scratch
from konv.kernels.channels import Channels
from konv.kernels.tables import TAP
from konv.kernels.words import JOB, PHASE, TRIPLE
from konv.plan import Plan, Strides, Work
from konv.target import BYTES, Target

MODES = {"zeros": 0, "reflect": 1, "replicate": 2, "circular": 3}
PIXELS = 256  # of a unit at most: enough tiles to use each block of weights often
# Of a packed box: squarer boxes pack fewer pixels twice, and 64 floats still fill cache lines.
WIDEST = 64
WIDEST_LINE = 256  # of boxes whose results leave in lines
FEWEST = 48  # pixels below which a unit is not cut further for more units
TABLES = 4 * 1024 * 1024  # bytes of addresses beyond which a unit is cut down to a single tile
# Multiply-adds below which waking a second thread costs more than it brings: about 3 us.
ALONE = 60_000


class _Line:
    """One axis, its phases and the box that units take of it.

    A slot is a place for one source. Usually slots are all pixels from a box's first to its last
    source, so that neighbours stay neighbours. Where taps lie far apart, most of these would
    never be read: a *sparse* axis has slots for what each output of the box reads, and no others.
    """

    def __init__(self, axis: Axis) -> None:
        self.axis = axis
        self.phases = tuple(axis.phases())
        self.count = max(phase.count for phase in self.phases)
        self.jump, self.step = self.phases[0].stride, self.phases[0].step
        self.reads = sorted({source for phase in self.phases for source in phase.sources}) or [0]
        self.least, self.span = self.reads[0], self.reads[-1] - self.reads[0]
        self.reach = max(len(phase.taps) for phase in self.phases)
        self.cut(self.count)

    def cut(self, box: int) -> None:
        """Take about `box` at a time, in boxes as even as can be."""
        self.boxes = -(-self.count // max(1, min(box, self.count)))
        self.box = -(-self.count // self.boxes)
        self.boxes = -(-self.count // self.box)
        dense = (self.box - 1) * self.jump + self.span + 1
        self.sparse = 2 * self.box * len(self.reads) <= dense
        self.ahead = len(self.reads) if self.sparse else self.jump
        self.first_slots = len(self.reads) if self.sparse else self.span + 1
        self.slots = (self.box - 1) * self.ahead + self.first_slots

    def raws(self) -> list[int] | range:
        """The source of each slot, counted from the box's first."""
        if not self.sparse:
            return range(self.slots)
        return [j * self.jump + read - self.least for j in range(self.box) for read in self.reads]

    def slot(self, source: int) -> int:
        """The slot of a source that the first output of a box reads."""
        return bisect_left(self.reads, source) if self.sparse else source - self.least


def schedule(
    conv: Conv,
    plan: Plan,
    target: Target,
    channels: Channels,
    x_strides: Strides,
    y_strides: Strides,
    threads: int,
    in_lines: bool = False,
) -> Work:
    """The work of `conv` under `plan`, whose kernel sees these channels; `in_lines`: boxes are to
    be as wide as the image.
    """
    axes = (Axis(1, 1),) * (3 - len(conv.axes)) + conv.axes
    lines = [_Line(axis) for axis in axes]
    if conv.exact_macs < ALONE:
        threads = 1
    chunk_blocks = _cut(conv, plan, target, lines, channels.all_blocks, threads, in_lines)
    chunks = -(-channels.all_blocks // chunk_blocks)
    words = dict.fromkeys(JOB, 0)
    words |= {
        "units": chunks * conv.n * prod(line.boxes for line in lines),
        "chunks": chunks, "chunk_blocks": chunk_blocks, "mode": MODES[conv.mode],
        "even": not any(line.sparse for line in lines),
        "groups": channels.groups, "ci": channels.ci, "co": channels.co,
        "blocks": channels.blocks, "tail": channels.tail,
        "channels": channels.co, "reduction": channels.reduction,
        "x_batch": x_strides[0], "x_channel": x_strides[1],
        "y_batch": y_strides[0], "y_channel": y_strides[1],
    }  # fmt: skip
    tables = _axis_words(words, conv, lines, x_strides[2:], y_strides[2:])
    parts = _parts(conv, plan, lines, target.lanes(plan.dtype))
    words["thread_bytes"] = scratch.lay_out(words, parts)
    return Work([*words.values(), *tables], threads, words["thread_bytes"])


def _cut(
    conv: Conv,
    plan: Plan,
    target: Target,
    lines: list[_Line],
    blocks: int,
    threads: int,
    in_lines: bool,
) -> int:
    """Choose the boxes; returns how many blocks of output channels one unit takes."""
    left = 2 * PIXELS if plan.packed else PIXELS
    widest = WIDEST_LINE if in_lines else WIDEST
    if plan.packed and lines[2].count > widest < lines[1].count * lines[2].count:
        lines[2].cut(widest)
    for line in reversed(lines):
        line.cut(min(left, line.box))
        left = max(1, left // line.box)
    room = target.l2 * 2 // 5 // (conv.ci * BYTES[conv.dtype])
    taps = prod(line.reach for line in lines)
    wanted = 4 * threads if threads > 1 else 0

    def units() -> int:
        return conv.n * prod(line.boxes for line in lines)

    def too_large() -> bool:
        return units() < wanted or (plan.packed and prod(line.slots for line in lines) > room)

    def pixels() -> int:
        return prod(line.box for line in lines)

    while too_large() and pixels() >= 2 * FEWEST:
        _halve(lines, in_lines)
    while 8 * taps * pixels() > TABLES and pixels() > plan.pixels:
        _halve(lines, in_lines)
    pieces = min(blocks, max(1, -(-wanted // max(1, units()))))
    return -(-blocks // pieces)


def _halve(lines: list[_Line], in_lines: bool) -> None:
    """Cut the largest box of all axes in two, the outermost of equals; or the outermost of all."""
    largest = max(lines, key=lambda line: min(line.box, 2) if in_lines else line.box)
    largest.cut(largest.box // 2)


def _axis_words(
    words: dict[str, int],
    conv: Conv,
    lines: list[_Line],
    x_strides: tuple[int, ...],
    y_strides: tuple[int, ...],
) -> list[int]:
    """Fill the per-axis words; returns the tables that follow the job: phases' records, their
    (tap, slot, source) triples, and the source of each slot.
    """
    records: list[int] = []
    triples: list[int] = []
    tables: list[int] = []
    missing = (0,) * (3 - len(x_strides))
    strides = zip((*missing, *x_strides), (*missing, *y_strides), strict=True)
    at_triples = len(JOB) + len(PHASE) * sum(len(line.phases) for line in lines)
    taps = sum(len(phase.taps) for line in lines for phase in line.phases)
    at_tables = at_triples + len(TRIPLE) * taps
    for a, (line, (x_stride, y_stride)) in enumerate(zip(lines, strides, strict=True)):
        words |= {
            f"size{a}": line.axis.size, f"x_stride{a}": x_stride, f"y_stride{a}": y_stride,
            f"count{a}": line.count, f"outputs{a}": line.axis.out,
            f"box{a}": line.box, f"boxes{a}": line.boxes,
            f"jump{a}": line.jump, f"least{a}": line.least, f"span{a}": line.span,
            f"ahead{a}": line.ahead, f"first_slots{a}": line.first_slots, f"step{a}": line.step,
            f"phases{a}": len(line.phases), f"at_phases{a}": len(JOB) + len(records),
            f"apart{a}": conv.ci * BYTES[conv.dtype] * prod(o.slots for o in lines[a + 1 :]),
            f"at_raws{a}": at_tables + len(tables),
        }  # fmt: skip
        tables += line.raws()
        inner = prod(other.axis.kernel for other in lines[a + 1 :])
        for phase in line.phases:
            records += [phase.first, phase.count, len(phase.taps), at_triples + len(triples)]
            for tap, source in zip(phase.taps, phase.sources, strict=True):
                triples += [tap * inner, line.slot(source), source - line.least]
    return records + triples + tables


def _parts(conv: Conv, plan: Plan, lines: list[_Line], lanes: int) -> dict[str, int]:
    """The parts of a thread's scratch by the word that says where they begin, in bytes."""
    size = BYTES[conv.dtype]
    pixels = prod(line.box for line in lines)
    tiles = -(-pixels // plan.pixels)
    taps = prod(line.reach for line in lines)
    width = plan.vectors * lanes
    image = conv.ci * prod(line.slots for line in lines) + lanes if plan.packed else 0
    return {
        **{f"at_slots{a}": line.slots * 8 for a, line in enumerate(lines)},
        "at_taps": taps * 8 * TAP,
        "at_counts": tiles * 8,
        "at_places": tiles * plan.pixels * 8,
        "at_rows": tiles * taps * (plan.pixels + 1) * 8,
        "at_zeros": 0 if plan.packed else (conv.ci + width) * size,
        "at_image": image * size,
        "at_block": (tiles * plan.pixels * width if plan.blocked else conv.co + width) * size,
    }
