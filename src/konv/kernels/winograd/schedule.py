"""One convolution at one image size, cut into boxes of Winograd's tiles; fills the words of
konv.kernels.winograd.records.

Nothing here changes a result. A box's V (all points of its tiles, of one group's channels) shall
stay in the second-level cache together with the M of one block of output channels; U streams past
once for each box and so wants many tiles in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from konv.geometry import Axis, Conv
from konv.kernels import scratch
from konv.kernels.schedule import ALONE, MODES
from konv.kernels.winograd.count import RESTS, half, order, three, widths
from konv.kernels.winograd.cut import Model, turns
from konv.kernels.winograd.records import EDGE, TILE_AXES, TILES_JOB
from konv.kernels.winograd.tables import OUTS
from konv.kernels.winograd.transforms import Transform, transforms
from konv.plan import Plan, Strides, Work
from konv.target import BYTES, Target


class Lines:
    """The lines of one axis, and the boxes they are cut into."""

    def __init__(self, axis: Axis, transform: Transform) -> None:
        self.axis, self.t = axis, transform
        d, m = axis.dilation if axis.kernel > 1 else 1, transform.outputs
        self.dilation = d
        firsts = [o for t in range(0, axis.out, m * d) for o in range(t, min(t + d, axis.out))]
        self.lines = [
            (o, min(m, -(-(axis.out - o) // d)), o * axis.stride // axis.up - axis.lo // axis.up)
            for o in firsts
        ]
        self.cut(len(self.lines))

    @property
    def count(self) -> int:
        return len(self.lines)

    def cut(self, box: int) -> None:
        """`box` lines in each box, or as many whole turns of interleaved ones as that has."""
        self.box = turns(self.axis, self.count, min(box, self.count))
        self.boxes = -(-self.count // self.box)
        self.sparse = self.box < min(self.dilation, self.count)

    @property
    def slots(self) -> int:
        """Slots of the largest box."""
        if self.sparse:
            return self.box * self.t.inputs
        sources = [source for *_, source in self.lines]
        spans = [
            sources[min(i + self.box, self.count) - 1] - sources[i]
            for i in range(0, self.count, self.box)
        ]
        return max(spans) + (self.t.inputs - 1) * self.dilation + 1

    def raws(self) -> list[int]:
        """Sources of slots: of each line in turn, or counted from a box's first."""
        if not self.sparse:
            return list(range(self.slots))
        steps = range(0, self.t.inputs * self.dilation, self.dilation)
        return [source + step for *_, source in self.lines for step in steps]


def schedule(
    conv: Conv,
    plan: Plan,
    target: Target,
    x: Strides,
    y: Strides,
    threads: int,
    crops: Sequence[tuple[int, int, int]] = (),
) -> Work:
    """The work of `conv` under a Winograd plan; `crops`: of a layer over cells (konv.kernels.cells)
    the outputs of a cell on each axis, those that the first has not, and all there are.
    """
    deep, *plane = three(conv)
    lines = [Lines(axis, t) for axis, t in zip(plane, transforms(plan), strict=True)]
    if conv.exact_macs < ALONE:
        threads = 1
    lanes = target.lanes(plan.dtype)
    co, ci = conv.co // conv.groups, conv.ci // conv.groups
    vectors = -(-co // lanes)
    blocks = widths(vectors, plan)
    each = len(blocks) * half(vectors, plan.vectors) // vectors
    full = blocks[:each].count(plan.vectors)
    cut = Model(conv, plan, target).best(threads, conv.n)
    for line, box in zip(lines, (cut.rows, cut.columns), strict=True):
        line.cut(box)
    chunks, volumes = -(-len(blocks) // cut.chunk_blocks), conv.dims > 2
    planes = deep.out if volumes else conv.n
    missing = (0,) * (3 - conv.dims)
    x_strides, y_strides = (
        [(*missing, *strides[2:])[i] for i in order(conv)] for strides in (x, y)
    )
    together = -(-planes // cut.planes)
    boxes = (conv.n if volumes else 1) * together * prod(line.boxes for line in lines)
    words = dict.fromkeys(TILES_JOB, 0)
    words |= {
        "units": boxes * conv.groups * chunks,
        "chunks": chunks, "chunk_blocks": cut.chunk_blocks, "mode": MODES[conv.mode],
        "groups": conv.groups, "ci": ci, "co": co, "blocks": full, "tail": each - full,
        "held": lanes if plan.packed else ci, "sliced": 1,
        "every": len(blocks),
        "x_batch": x[0], "x_channel": x[1], "y_batch": y[0], "y_channel": y[1],
    }  # fmt: skip
    words |= {
        "count0": planes, "box0": cut.planes, "boxes0": together, "least0": -deep.lo,
        "span0": deep.kernel - 1, "size0": deep.size if volumes else conv.n,
        "x_stride0": x_strides[0] if volumes else x[0],
        "y_stride0": y_strides[0] if volumes else y[0],
    }  # fmt: skip
    tables = _axis_words(words, conv, lines, x_strides[1:], y_strides[1:])
    parts = _parts(conv, plan, words, lines, lanes)
    if crops:
        for a, (step, crop, out) in zip(TILE_AXES, crops, strict=True):
            words |= {f"step{a}": step, f"crop{a}": crop, f"outputs{a}": out}
        tiles = prod(line.box for line in lines) * (words["box0"] + words["span0"])
        parts["at_outs"] += tiles * EDGE * 8
        parts["at_dump"] = 2 * prod(line.t.outputs for line in lines) * lanes * BYTES[plan.dtype]
    words["thread_bytes"] = scratch.lay_out(words, parts)
    return Work([*words.values(), *tables], threads, words["thread_bytes"])


def _axis_words(
    words: dict[str, int],
    conv: Conv,
    lines: list[Lines],
    x_strides: list[int],
    y_strides: list[int],
) -> list[int]:
    """Fill the per-axis words; returns the tables that follow: lines, and sources of slots."""
    apart = words["held"] * BYTES[conv.dtype]
    words["at_raws0"] = len(TILES_JOB)
    tables = list(range(words["box0"] + words["span0"]))
    for a, line, x_stride, y_stride in reversed(
        list(zip(TILE_AXES, lines, x_strides, y_strides, strict=True))
    ):
        axis, d = line.axis, line.dilation
        end = max(0, (axis.reads() or (0, -1))[1] + 1)
        # Where padding is zeros, an image that ends there is what tiles shall see.
        size = min(axis.size, end) if conv.mode == "zeros" else axis.size
        words |= {
            f"size{a}": size, f"x_stride{a}": x_stride, f"y_stride{a}": y_stride,
            f"count{a}": line.count, f"box{a}": line.box, f"boxes{a}": line.boxes,
            # What konv.kernels.packing asks before it copies squares of neighbouring pixels.
            f"jump{a}": 1, f"ahead{a}": 1 + line.sparse, f"first_slots{a}": 1,
            f"out{a}": axis.out, f"apart{a}": apart, f"dilation{a}": d,
            f"sparse{a}": line.sparse,
            f"end{a}": end,
            f"at_lines{a}": len(TILES_JOB) + len(tables),
        }  # fmt: skip
        tables += [word for words_of_line in line.lines for word in words_of_line]
        words[f"at_raws{a}"] = len(TILES_JOB) + len(tables)
        tables += line.raws()
        apart *= line.slots
    words["apart0"] = apart
    return tables


def _parts(
    conv: Conv, plan: Plan, words: dict[str, int], lines: list[Lines], lanes: int
) -> dict[str, int]:
    """The parts of a thread's scratch; notes what depends on them in `words`."""
    size, ci = BYTES[plan.dtype], conv.ci // conv.groups
    rows, columns = lines
    each = rows.box * columns.box
    read = words["box0"] + words["span0"]
    beyond = (plan.pixels, *RESTS.get(plan.pixels, ()))[-1] - 1
    points, pixels = rows.t.n * columns.t.n, rows.t.inputs * columns.t.inputs
    outs = OUTS if plan.blocked else rows.t.outputs * columns.t.outputs
    # Odd, lest points of a tile fall in few sets of the first-level cache.
    places, results = each * read + beyond | 1, each * words["box0"] + beyond | 1
    words["v_point"] = places * lanes
    words["v_vector"] = points * places * lanes
    words["m_point"] = results * plan.vectors * lanes + lanes * (1 - plan.vectors % 2)
    longest = columns.box * columns.t.outputs
    words["stage_plane"] = rows.t.outputs * longest + 4
    image = words["held"] * rows.slots * columns.slots + lanes if plan.packed else 0
    return {
        "at_slots0": 8,
        "at_slots1": rows.slots * 8,
        "at_slots2": columns.slots * 8,
        "at_planes": read * 8,
        "at_ins": each * pixels * 8,
        "at_outs": each * read * outs * 8,
        "at_zeros": 0 if plan.packed else (conv.ci + lanes) * size,
        "at_image": image * size,
        "at_dump": 0 if plan.blocked else (conv.co + lanes) * size,
        "at_stage": lanes * words["stage_plane"] * size if plan.blocked else 0,
        "at_v": -(-ci // lanes) * words["v_vector"] * size,
        "at_m": points * words["m_point"] * size,
    }
