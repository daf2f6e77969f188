"""One convolution at one image size, cut into units: fills the JOB words that kernels read."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from konv.geometry import ONE, Axis, Conv
from konv.kernels import in_place, scratch
from konv.kernels.channels import Channels, mean_taps
from konv.kernels.cut import FEWEST, cut, streams
from konv.kernels.lines import Line, parts_of
from konv.kernels.passes import Passes
from konv.kernels.tables import TAP
from konv.kernels.words import JOB, PHASE, TRIPLE
from konv.plan import Plan, Strides, Work
from konv.target import COMPUTED, Target

MODES = {"zeros": 0, "reflect": 1, "replicate": 2, "circular": 3}
# Multiply-adds below which waking a second thread costs more than it brings: about 3 us.
ALONE = 60_000
# Bytes of images that are asked for in advance, from here on (Zen 3: 144@56 of 8, 2.9 to 1.2 ms;
# 96@112 s2 of one image, 6 MB, which the last cache holds: 0.10 to 0.14); and of weights.
FAR = 8 * 1024 * 1024
# Pixels from tap to tap from which on outputs that meet padding with other taps are apart, if they
# are so many beside each other, with AVX-512 or not: channels-last 2048->256@65 d36 70 to 55 ms,
# @33 d18 18.5 to 14.5, 512@33 d18 3.2 to 3.0 (Granite Rapids; AVX2 code 1.03, .95 and .92).
APART, BESIDE, BESIDE_WIDE = 8, 24, 12
DEEP = 64  # channels of a group, with fewer of which boxes are small


def schedule(
    conv: Conv,
    plan: Plan,
    target: Target,
    channels: Channels,
    x_strides: Strides,
    y_strides: Strides,
    threads: int,
    in_lines: bool = False,
    run: int = 1,
    one_row: bool = False,
    deep: bool = False,
    ahead: int = 0,
    tables: bool = True,
) -> Work:
    """The work of `conv` under `plan`, whose kernel sees these channels; `in_lines`: boxes are to
    be as wide as the image; `run`: taps of the last axis that the kernel takes as one; `one_row`: a
    layer of one tap may be taken as one row of pixels (`flat`); `deep`: its sums go in passes;
    `ahead`: tiles may reach over the end of a row, whose pixels lie so many numbers apart.
    """
    if one_row:
        conv, x_strides, y_strides = flat(conv, x_strides, y_strides)
    conv, x_strides = skipping(conv, x_strides)
    in_rows = ahead > 0 or not tables
    parted = not (plan.packed or run > 1 or in_lines or in_rows) and meets_padding(conv)
    if parted:
        least = BESIDE_WIDE if target.vector_bytes == 64 else BESIDE
        parted = all(max(part.count for part in parts_of(axis)) >= least for axis in conv.axes)
    in_turn = in_lines or in_rows or run > 1 or not channels.summed
    at = place_of_images(conv, plan, target, in_turn)
    conv, x_strides, y_strides = together(conv, x_strides, y_strides, at)
    axes = (ONE,) * (3 - len(conv.axes)) + conv.axes
    lines = [Line(axis, parted=parted) for axis in axes[:2]]
    lines.append(Line(axes[2], run, ahead > 0, parted))
    if conv.exact_macs < ALONE:
        threads = 1
    passes = Passes.of(conv, channels.groups, deep)
    lies = ahead > 0 and in_place.lies(conv, x_strides)
    how = in_lines, in_rows, lies
    chunk_blocks = cut(conv, plan, target, lines, channels, passes, threads, *how)
    chunks = -(-channels.all_blocks // chunk_blocks)
    words = dict.fromkeys(JOB, 0)
    words |= {
        "units": chunks * conv.n * prod(line.boxes for line in lines),
        "chunks": chunks, "chunk_blocks": chunk_blocks, "mode": MODES[conv.mode],
        "far": _far(conv, plan),
        "even": not (any(line.sparse for line in lines) or _hollow(conv, plan, run)),
        "groups": channels.groups, "ci": channels.ci, "co": channels.co,
        "blocks": channels.blocks, "tail": channels.tail,
        "channels": channels.co, "reduction": channels.reduction, "run": run,
        "lies": lies, "passes": passes.count, "share": passes.share, "held": passes.held,
        "sliced": passes.held < conv.ci,
        "asks": passes.count > 1 and _asks(conv, plan, target, channels, passes),
        "x_batch": x_strides[0], "x_channel": x_strides[1],
        "y_batch": y_strides[0], "y_channel": y_strides[1],
    }  # fmt: skip
    behind = _axis_words(words, conv, lines, passes.held, x_strides[2:], y_strides[2:])
    parts = _parts(conv, plan, lines, passes.held, target.lanes(plan.dtype), ahead, in_rows)
    sums = parts["at_places"] // 8 * plan.vectors * target.lanes(plan.dtype) * deep
    parts["at_sums"] = sums * channels.groups * chunk_blocks * COMPUTED[conv.dtype]
    words["thread_bytes"] = scratch.lay_out(words, parts)
    return Work([*words.values(), *behind], threads, words["thread_bytes"])


def _asks(conv: Conv, plan: Plan, target: Target, channels: Channels, passes: Passes) -> bool:
    """Whether weights come from memory, and those of a block in a pass, which are asked for while
    the block before is computed, leave room in the second-level cache (7x7 512->4096@22, 300 KB of
    512, .92 to .97 times as fast if they were).
    """
    size = COMPUTED[conv.dtype]
    block = channels.reduction // channels.ci * passes.share * plan.vectors
    block *= target.lanes(plan.dtype) * size
    return conv.params * size >= FAR and 8 * block <= target.l2


def _hollow(conv: Conv, plan: Plan, run: int) -> bool:
    """Whether a fifth of what taps read is padding, which a packed image holds as zeros: its tiles
    are then uneven, and leave out taps that lie in the padding for all their pixels (768@49 k128
    p64 g16: 9.1 to 2.9 ms; 512@2x7x7 k3 p1: 15.3 to 14.4).
    """
    return plan.packed and run == 1 and _padded(conv)


def meets_padding(conv: Conv) -> bool:
    """Whether taps are so far apart that many lie in padding for outputs side by side, which boxes
    of them alone can leave out where an image is read as it lies; of layers with many channels.
    """
    deep = conv.ci // conv.groups >= DEEP
    return conv.mode == "zeros" and deep and apart(conv) and _padded(conv)


def apart(conv: Conv) -> bool:
    """Whether taps are as far apart as that takes, at any size."""
    return all(axis.kernel == 1 or axis.dilation >= APART for axis in conv.axes)


def _padded(conv: Conv) -> bool:
    """Whether a fifth of what taps read is padding."""
    outputs = conv.n * conv.co * (conv.ci // conv.groups) * prod(axis.out for axis in conv.axes)
    return 5 * conv.exact_macs < 4 * outputs * mean_taps(conv)


def _far(conv: Conv, plan: Plan) -> bool:
    """Whether images are so large that they come from memory and go there."""
    numbers = prod(conv.in_shape) + prod(conv.out_shape)
    return numbers * COMPUTED[plan.dtype] >= FAR


def skipping(conv: Conv, x: Strides) -> tuple[Conv, Strides]:
    """Axes before the last of one tap in steps as such in steps of one over the lines that are
    read: what lies between is then neither packed nor listed (contiguous 1x1 in steps of two,
    256->512@56 1.06 times as fast, 512->1024@28 1.09; Granite Rapids, two threads).
    """
    axes, strides = list(conv.axes), list(x)
    for a, axis in enumerate(conv.axes[:-1]):
        if axis == Axis(axis.size, 1, stride=axis.stride):
            axes[a], strides[2 + a] = Axis(axis.out, 1), x[2 + a] * axis.stride
    return replace(conv, axes=tuple(axes)), tuple(strides)


def flat(conv: Conv, x: Strides, y: Strides) -> tuple[Conv, Strides, Strides]:
    """A layer of one tap in steps of one as a layer of a single axis, if all pixels of an image lie
    in equal steps; of all images together, if those go on in the same steps.

    Tiles then reach from row to row and from image to image, and their addresses are found
    together.
    """
    if any(axis != Axis(axis.size, 1) for axis in conv.axes):
        return conv, x, y
    steps, count = (x[-1], y[-1]), 1
    for axis, *at in zip(conv.axes[::-1], x[:1:-1], y[:1:-1], strict=True):
        if axis.size > 1:
            steps = steps if count > 1 else (at[0], at[1])
            if count > 1 and tuple(at) != (steps[0] * count, steps[1] * count):
                return conv, x, y
            count *= axis.size
    n = conv.n
    if n > 1 and (x[0], y[0]) == (steps[0] * count, steps[1] * count):
        n, count = 1, n * count
    flat = replace(conv, n=n, axes=(Axis(count, 1),))
    return flat, (*x[:2], steps[0]), (*y[:2], steps[1])


def place_of_images(conv: Conv, plan: Plan, target: Target, in_turn: bool) -> int | None:
    """The axis before which the images of a batch are an axis of their own (`together`), None if
    each is one by itself: where images are small or weights large, else an image a unit is as good,
    and its tables serve all (3x3 of 128@14 in 4 groups .8 times as fast together).

    Behind all others, all pixels of a tile have the same taps in the padding, which it leaves out;
    but rows that are packed, or come out of a block, lie along the last axis. So do tiles along
    rows, and depthwise images come whole out of a block: those have their images `in_turn`
    (64 contiguous ones of 3x3 96@4 1.35 to 1.4 times as long else).
    """
    if conv.n < 2 or len(conv.axes) == 3:
        return None
    small = prod(-(-axis.out // axis.up) for axis in conv.axes) < FEWEST
    if not small and not streams(conv, plan, target):
        return None
    if in_turn:
        return 0
    return 1 if plan.packed or plan.blocked else 2


def together(conv: Conv, x: Strides, y: Strides, at: int | None) -> tuple[Conv, Strides, Strides]:
    """The images of a batch as an axis of a single one, before the others or behind so many of the
    last two: a box may reach over it, so that small images fill tiles together, and weights are
    read once for them all (8 images, contiguous and channels-last: 3x3 of 512@2 2.7 and 3.8 times
    as fast, s2 512@7 1.6 and 1.9, 512@14 1.5, transposed 4x4 512@4 1.4 and 1.5; Emerald Rapids).
    """
    if at is None:
        return conv, x, y
    axes, steps = [ONE, *conv.axes][-2:], [(0, 0), *zip(x[2:], y[2:], strict=True)][-2:]
    axes.insert(at, Axis(conv.n, 1))
    steps.insert(at, (x[0], y[0]))
    x_steps, y_steps = zip(*steps, strict=True)
    as_one = replace(conv, n=1, axes=tuple(axes))
    return as_one, (0, x[1], *x_steps), (0, y[1], *y_steps)


def _axis_words(
    words: dict[str, int],
    conv: Conv,
    lines: list[Line],
    held: int,
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
    taps = sum(len(phase.taps) // line.run for line in lines for phase in line.phases)
    at_tables = at_triples + len(TRIPLE) * taps
    for a, (line, (x_stride, y_stride)) in enumerate(zip(lines, strides, strict=True)):
        words |= {
            f"size{a}": line.axis.size, f"x_stride{a}": x_stride, f"y_stride{a}": y_stride,
            f"count{a}": line.count, f"outputs{a}": line.axis.out,
            f"box{a}": line.box, f"boxes{a}": line.boxes,
            f"jump{a}": line.jump, f"least{a}": line.least, f"span{a}": line.span,
            f"ahead{a}": line.ahead, f"first_slots{a}": line.first_slots, f"step{a}": line.step,
            f"phases{a}": len(line.phases), f"at_phases{a}": len(JOB) + len(records),
            f"apart{a}": held * COMPUTED[conv.dtype] * prod(o.slots for o in lines[a + 1 :]),
            f"at_raws{a}": at_tables + len(tables),
        }  # fmt: skip
        tables += line.raws()
        inner = prod(other.axis.kernel // other.run for other in lines[a + 1 :])
        for phase in line.phases:
            read = list(zip(phase.taps, phase.sources, strict=True))[:: line.run]
            records += [phase.first, phase.count, len(read), at_triples + len(triples)]
            for tap, source in read:
                triples += [tap * inner, line.slot(source), source - line.least]
    return records + triples + tables


def _parts(
    conv: Conv, plan: Plan, lines: list[Line], held: int, lanes: int, ahead: int, in_rows: bool
) -> dict[str, int]:
    """The parts of a thread's scratch by the word that says where they begin, in bytes; `held`:
    channels of a packed image.
    """
    size = COMPUTED[conv.dtype]
    pixels = prod(line.box for line in lines)
    tiles = -(-pixels // plan.pixels) + (ahead > 0)
    listed = 0 if in_rows else tiles  # tiles along rows need no tables
    taps = prod(line.reach for line in lines)
    width = plan.vectors * lanes
    image = held * prod(line.slots for line in lines) + lanes if plan.packed else 0
    image += plan.pixels * ahead
    return {
        **{f"at_slots{a}": line.slots * 8 for a, line in enumerate(lines)},
        "at_taps": taps * 8 * TAP,
        "at_counts": listed * 8,
        "at_places": listed * plan.pixels * 8,
        "at_rows": listed * taps * (plan.pixels + 1) * 8,
        "at_lines": in_place.WORDS * taps * lines[0].box * lines[1].box * 8 if ahead else 0,
        "at_zeros": 0 if plan.packed else (conv.ci + width) * size,
        "at_image": image * size,
        "at_block": (tiles * plan.pixels * width if plan.blocked else conv.co + width) * size,
    }
