"""A job's words as konv.kernels.schedule fills them, read as a kernel of konv.kernels.units reads
them: all work once, all memory apart, all reads in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from functional.check import small_units
from geometry.strategies import convs
from hypothesis import given
from hypothesis import strategies as st

from konv import llvm
from konv.arrays import dense_strides
from konv.geometry import Axis, Conv, read_problems
from konv.geometry.padding import fold
from konv.kernels import depthwise, direct
from konv.kernels import schedule as module
from konv.kernels.cut import FEWEST, FIELDS
from konv.kernels.schedule import ALONE
from konv.kernels.tables import TAP
from konv.kernels.words import AXES, JOB, PHASE, TRIPLE
from konv.plan import Algorithm, Plan
from konv.runtime.job import Job, schedule
from konv.target import BYTES, Target

FOLDER = Path(__file__).resolve().parents[2] / "problems"
FILES = {
    file.name: [conv for _, conv in read_problems(file.read_text("utf-8"))]
    for file in sorted(FOLDER.glob("*.txt"))
}
PROBLEMS = list(dict.fromkeys(conv for problems in FILES.values() for conv in problems))
ENGINE: tuple[Algorithm, ...] = (depthwise, direct)
LAYOUTS = list(product((True, False), repeat=2))
MIB = 1024 * 1024
# Scratch memory of a thread, at most: 8.7 MiB for the rows that 2048 dilated channels reach, 2.1
# for 31 x 31 taps, 1.9 for 7 x 7 x 7, else about one.
BOUNDS = dict.fromkeys(FILES, 2 * MIB)
BOUNDS |= {"shapes.txt": MIB, "deeplab.txt": 9 * MIB}
MANY_TAPS = 4 * MIB  # their tables of rows


def chosen(conv: Conv, target: Target, packed: bool, blocked: bool) -> Plan:
    """The plan of the first of the algorithms whose work these words describe."""
    mine = next(a for a in (depthwise, direct) if a.why_not(conv, target) is None)
    return mine.plans(conv, target, packed, blocked)[0]


class Simulated:
    """A job for a problem in a pair of layouts, and what a kernel would make of its words."""

    def __init__(
        self,
        conv: Conv,
        packed: bool,
        blocked: bool,
        threads: int = 1,
        target: Target | None = None,
        which: int = 0,
    ) -> None:
        self.target, self.conv, self.threads = target or llvm.detect(), conv, threads
        algorithm = next(a for a in ENGINE if a.why_not(conv, self.target) is None)
        plans = algorithm.plans(conv, self.target, packed, blocked)
        self.plan: Plan = plans[which % len(plans)]
        strides = (
            dense_strides(conv.in_shape, not packed),
            dense_strides(conv.out_shape, not blocked),
        )
        self.job: Job = schedule(conv, self.plan, self.target, *strides, threads)
        if algorithm is direct:
            self.conv = module.flat(conv, *strides)[0]  # what the words describe
        self.conv = module.skipping(self.conv, strides[0])[0]
        self.all: list[int] = self.job.words.tolist()
        self.words = dict(zip(JOB, self.all, strict=False))
        rows = algorithm is direct and self.plan.form not in ((), direct.PASSES)
        rows |= self.words["run"] > 1 or algorithm is depthwise
        at = module.place_of_images(self.conv, self.plan, self.target, rows)
        self.conv = module.together(self.conv, *strides, at)[0]
        self.axes = (Axis(1, 1),) * (3 - self.conv.dims) + self.conv.axes
        self.runs = (1, 1, self.words["run"])  # taps of an axis that are taken as one
        self.size, self.lanes = BYTES[conv.dtype], self.target.lanes(conv.dtype)

    def __str__(self) -> str:
        return f"{self.conv}, {self.plan}, {self.threads} threads"

    def axis(self, name: str) -> list[int]:
        return [self.words[f"{name}{a}"] for a in AXES]

    def phases(self, a: int) -> list[dict[str, int]]:
        at = self.words[f"at_phases{a}"]
        records = range(at, at + len(PHASE) * self.words[f"phases{a}"], len(PHASE))
        return [dict(zip(PHASE, self.all[i : i + len(PHASE)], strict=True)) for i in records]

    def triples(self, a: int, phase: dict[str, int]) -> list[tuple[int, int, int]]:
        """(tap, slot, raw source) of a phase; the latter two counted from a pixel's first. Those of
        a run follow its first.
        """
        at, found = phase["at_triples"], list[tuple[int, int, int]]()
        for i in range(at, at + len(TRIPLE) * phase["reach"], len(TRIPLE)):
            tap, slot, raw = self.all[i : i + len(TRIPLE)]
            found += [(tap + n, slot + n, raw + n) for n in range(self.runs[a])]
        return found

    def slots(self, a: int, width: int | None = None) -> int:
        """Slots of `width` js, or of a whole box."""
        width = self.words[f"box{a}"] if width is None else width
        return (width - 1) * self.words[f"ahead{a}"] + self.words[f"first_slots{a}"]

    def raws(self, a: int) -> list[int]:
        """The raw source of each slot of a box, counted from its first."""
        at = self.words[f"at_raws{a}"]
        assert len(JOB) <= at < at + self.slots(a) <= len(self.all)
        return self.all[at : at + self.slots(a)]

    @property
    def blocks(self) -> int:
        return self.words["blocks"] + (self.words["tail"] > 0)

    def units(self) -> Iterator[tuple[int, list[int], int, int]]:
        """Image, first j on each axis, first and last block: as kernels.units takes them."""
        w, box, boxes = self.words, self.axis("box"), self.axis("boxes")
        for number in range(w["units"]):
            rest, chunk = divmod(number, w["chunks"])
            j = [0, 0, 0]
            for a in reversed(AXES):
                rest, at = divmod(rest, boxes[a])
                j[a] = at * box[a]
            block = chunk * w["chunk_blocks"]
            yield rest, j, block, min(block + w["chunk_blocks"], self.blocks)


def check(s: Simulated) -> None:
    __tracebackhide__ = True
    all_work_once(s)
    all_channels_once(s)
    sources_are_right(s)
    slots_are_right(s)
    parts_are_apart(s)


def all_work_once(s: Simulated) -> None:
    """Every image, block of output channels and output pixel, by exactly one unit and phase."""
    assert min(s.axis("box") + s.axis("boxes")) >= 1
    assert s.words["chunk_blocks"] >= 1
    out, box = [axis.out for axis in s.axes], s.axis("box")
    done = np.zeros((s.conv.n, s.blocks, *out), np.int16)
    phases = [s.phases(a) for a in AXES]
    for image, j, first, last in s.units():
        assert first < last
        for phase in product(*phases):
            spans = []
            for a, p in zip(AXES, phase, strict=True):
                length = min(box[a], p["outputs"] - j[a])
                begin, step = p["first"] + j[a] * s.words[f"step{a}"], s.words[f"step{a}"]
                end = begin + (length - 1) * step + 1
                assert length <= 0 or end <= out[a]
                spans.append(slice(begin, max(begin, end) if length > 0 else begin, step))
            done[image, first:last, spans[0], spans[1], spans[2]] += 1
    assert (done == 1).all(), f"{s}: {int((done != 1).sum())} of {done.size} not once"


def all_channels_once(s: Simulated) -> None:
    """Blocks of a group cover its output channels, and none writes beyond them."""
    w, written = s.words, 0
    assert (w["groups"] * w["ci"], w["groups"] * w["co"]) == (s.conv.ci, s.conv.co)
    width = s.plan.vectors * s.lanes
    for block in range(s.blocks):
        k = block * width
        assert k == written, f"{s}: block {block}"
        last = s.plan.tail > 0 and block >= w["blocks"]
        vectors = s.plan.tail if last else s.plan.vectors
        if s.plan.blocked:
            valid = min(w["co"] - k, width)
            assert 1 <= valid <= vectors * s.lanes
        else:
            valid = vectors * s.lanes
            if last and s.plan.odd:
                valid += s.plan.odd - s.lanes
        written += valid
    assert written == w["co"], str(s)
    # Passes are of whole channels, and what a packed image holds is that of one or of all.
    taken = [min(w["share"], w["ci"] - p * w["share"]) for p in range(w["passes"])]
    assert sum(taken) == w["ci"]
    assert min(taken) >= 1
    assert w["held"] == (w["share"] if w["sliced"] else s.conv.ci)
    assert not w["sliced"] or (w["groups"] == 1 and set(taken) == {w["share"]})


def sources_are_right(s: Simulated) -> None:
    """What a tap reads for an output is what geometry says, through the table of slots and by its
    raw source alike; no tap is left out, none is double.
    """
    for a, axis in enumerate(s.axes):
        outer = zip(s.axes, s.runs, strict=True)
        inner = prod([other.kernel // run for other, run in outer][a + 1 :])
        jump, least, box = (s.words[f"{name}{a}"] for name in ("jump", "least", "box"))
        mode = s.conv.mode if a >= 3 - s.conv.dims else "zeros"
        raws, count = s.raws(a), s.words[f"count{a}"]
        assert s.words[f"size{a}"] == axis.size
        for p in s.phases(a):
            triples = s.triples(a, p)
            assert p["at_triples"] + len(TRIPLE) * p["reach"] <= s.words["at_raws0"]
            taps = {tap for tap, _, _ in triples}
            assert len(taps) == len(triples)
            assert taps <= set(range(0, axis.kernel * inner, inner))
            last = p["outputs"] - 1
            for j in sorted({0, 1, box - 1, box, last // 2, last - last % box, last - 1, last}):
                if not 0 <= j <= last:
                    continue
                o, begin = p["first"] + j * s.words[f"step{a}"], j - j % box
                slots = s.slots(a, min(box, count - begin))
                got = {}
                for tap, slot, raw in triples:
                    at = (j - begin) * s.words[f"ahead{a}"] + slot
                    assert 0 <= at < slots, f"{s}: {a}, {o}: no such slot"
                    source = begin * jump + least + raws[at]
                    assert source == j * jump + least + raw, f"{s}: {a}, {o}: another raw source"
                    got[tap // inner] = fold(source, axis.size, mode)
                want = {k: axis.source(o, k, mode) for k in range(axis.kernel)}
                assert all(got.get(k) == source for k, source in want.items()), f"{s}: {a}, {o}"


def slots_are_right(s: Simulated) -> None:
    """The slots that taps read hold their raw sources, and lie within a packed image."""
    last_place, dense = 0, list[bool]()
    for a in AXES:
        box, jump, ahead, span = (s.words[f"{n}{a}"] for n in ("box", "jump", "ahead", "span"))
        raws, slots = s.raws(a), s.slots(a)
        assert s.words[f"apart{a}"] == s.words["held"] * s.size * prod(
            s.slots(b) for b in AXES[a + 1 :]
        )
        dense.append((ahead, s.words[f"first_slots{a}"]) == (jump, span + 1))
        # Packing takes neighbouring slots for neighbouring pixels here.
        assert not dense[a] or raws == list(range(slots)), f"{s}: {a}: gaps in a dense axis"
        assert s.words[f"count{a}"] == max(p["outputs"] for p in s.phases(a))
        read, seen = set[int](), set[int]()
        for p in s.phases(a):
            for _, slot, raw in s.triples(a, p):
                assert 0 <= slot < s.words[f"first_slots{a}"]
                read.update(range(slot, slot + (box - 1) * ahead + 1, ahead))
                seen.add(raw)
                held = [raws[slot + j * ahead] for j in range(box)]
                assert held == [raw + j * jump for j in range(box)], f"{s}: {a}"
        # A tile is inside the image if its pixels' first and last raw sources are.
        assert not seen or (min(seen), max(seen)) == (0, span), f"{s}: {a}"
        assert dense[a] or not seen or read == set(range(slots)), f"{s}: {a}: slots nobody reads"
        last_place += (slots - 1) * s.words[f"apart{a}"]
    assert not s.words["even"] or all(dense), f"{s}: even with a sparse axis"
    if s.plan.packed:
        room = s.words["at_block"] - s.words["at_image"]
        assert last_place + s.words["held"] * s.size <= room, f"{s}: the packed image is too long"


def parts_are_apart(s: Simulated) -> None:
    """Each part of the scratch memory is as long as what is written to it, on lines of its own."""
    w, box = s.words, s.axis("box")
    tiles = -(-prod(box) // s.plan.pixels)
    taps = prod(max(p["reach"] for p in s.phases(a)) for a in AXES)
    width = s.plan.vectors * s.lanes
    # Tiles along rows need no tables, and reach over their ends; those along pixels do not.
    flat = s.plan.algorithm == direct.name and len(s.plan.form) == direct.FLAT
    ahead = 0 if flat else sum(s.plan.form)
    listed, beyond = 0 if ahead or flat else tiles, s.plan.pixels * ahead
    tiles += ahead > 0
    need = {
        **{f"at_slots{a}": 8 * s.slots(a) for a in AXES},
        "at_taps": 8 * TAP * taps,
        "at_counts": 8 * listed,
        "at_places": 8 * listed * s.plan.pixels,
        "at_rows": 8 * listed * taps * (s.plan.pixels + 1),
        "at_lines": 8 * 2 * taps * box[0] * box[1] if ahead else 0,
        "at_zeros": 0 if s.plan.packed else s.conv.ci * s.size,
        "at_image": (w["held"] * prod(map(s.slots, AXES)) + beyond) * s.size * s.plan.packed,
        "at_block": (tiles * s.plan.pixels * width if s.plan.blocked else s.conv.co) * s.size,
        "at_sums": w["groups"] * w["chunk_blocks"] * tiles * s.plan.pixels * width * s.size,
    }
    if w["passes"] == 1:
        need["at_sums"] = 0
    assert set(need) == {name for name in JOB if name.startswith("at_")} - {
        f"{name}{a}" for name in ("at_phases", "at_raws") for a in AXES
    }, "a part of the scratch memory is not known here"
    order = sorted(need, key=lambda name: w[name])
    begins = [w[name] for name in order]
    assert begins[0] >= 0
    assert all(begin % 64 == 0 for begin in begins)
    for name, begin, end in zip(order, begins, [*begins[1:], w["thread_bytes"]], strict=True):
        assert begin + need[name] <= end, f"{s}: {name} reaches into the next part"
    assert w["thread_bytes"] % 64 == 0
    assert s.job.scratch == w["thread_bytes"] * s.job.threads
    assert s.job.address == s.job.words.ctypes.data
    assert s.job.words.dtype == np.int64


@pytest.mark.parametrize(
    ("line", "layouts", "at"),
    [
        ("conv2d 8x512x2x2 o512 k3 p1", (True, True), 1),  # small
        ("conv2d 8x512x2x2 o512 k3 p1", (False, False), 2),
        ("conv2d 8x512x2x2 o512 k3 p1", (False, True), 1),
        ("conv2d 8x512x14x14 o512 k3 s2 p1", (False, False), 2),  # its weights are large
        ("conv1d 8x512x9 o512 k3 p1", (False, False), 2),
        ("conv2d 8x64x4x4 o64 k3 p1 g64", (True, True), 0),  # whole images leave
        ("conv2d 8x64x14x14 o64 k3 p1", (False, False), None),
        ("conv2d 1x512x2x2 o512 k3 p1", (False, False), None),
        ("conv3d 8x64x2x2x2 o64 k3 p1", (False, False), None),
    ],
)
def test_where_images_go(line: str, layouts: tuple[bool, bool], at: int | None) -> None:
    """Several are in a unit then, whose tiles they fill and which reads weights once."""
    conv, target = Conv.parse(line), replace(llvm.detect(), l2=1 << 20)
    found = Simulated(conv, *layouts, 2, target).words
    if at is None:
        assert found["x_batch"] > 0
        return
    assert (found["x_batch"], found["y_batch"]) == (0, 0)
    assert found[f"count{at}"] == conv.n
    assert found[f"box{at}"] > 1
    assert found[f"x_stride{at}"] == conv.ci * prod(axis.size for axis in conv.axes)


@pytest.mark.parametrize("line", ["conv2d 5x3x6x7 o4 k3", "conv1d 5x3x6 o4 k3"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_images_are_an_axis(line: str, at: int) -> None:
    """Whose steps are the batch's: every number lies where it lay."""
    conv = Conv.parse(line)
    x, y = dense_strides(conv.in_shape, False), dense_strides(conv.out_shape, True)
    one, *strides = module.together(conv, x, y, at)
    assert (one.n, one.dims, one.axes[at]) == (1, 3, Axis(conv.n, 1))
    sizes = [axis.size for axis in conv.axes]
    for old, new in zip((x, y), strides, strict=True):
        for image, *place in product(range(conv.n), *map(range, sizes)):
            there = [*[0] * (2 - len(place)), *place]
            there.insert(at, image)
            lies = image * old[0] + sum(i * step for i, step in zip(place, old[2:], strict=True))
            assert sum(i * step for i, step in zip(there, new[2:], strict=True)) == lies
        assert new[:2] == (0, old[1])
    assert module.together(conv, x, y, None) == (conv, x, y)


@pytest.mark.parametrize("threads", [1, 13])
@pytest.mark.parametrize("layouts", LAYOUTS, ids=str)
@pytest.mark.parametrize("file", FILES)
def test_all_problems(file: str, layouts: tuple[bool, bool], threads: int) -> None:
    for conv in FILES[file]:
        s = Simulated(conv, *layouts, threads)
        check(s)
        taps = prod(axis.kernel for axis in conv.axes)
        bound = MANY_TAPS if taps >= 28 * 28 else BOUNDS[file]
        assert s.words["thread_bytes"] <= bound, str(s)


@pytest.mark.parametrize("layouts", LAYOUTS, ids=str)
def test_in_small_units(layouts: tuple[bool, bool]) -> None:
    """Many units for each of these small problems, and every register tile."""
    for number, conv in enumerate(FILES["shapes.txt"]):
        for pixels, fewest in ((1, 1), (16, 4)):
            with small_units(pixels, fewest):
                check(Simulated(conv, *layouts, 3, which=number))


@given(
    convs(most=9),
    st.sampled_from(LAYOUTS),
    st.sampled_from((1, 2, 3, 64)),
    st.sampled_from((1, 3, 16, 256)),
    st.sampled_from((1, 20_000, 10**6)),
    st.sampled_from(("float32", "float64")),
)
def test_random(
    conv: Conv, layouts: tuple[bool, bool], threads: int, pixels: int, l2: int, dtype: str
) -> None:
    """Axes that no user could write too, such as adjoints of adjoints, and caches of any size."""
    with small_units(pixels, max(1, pixels // 4)):
        target = replace(llvm.detect(), l2=l2)
        check(Simulated(replace(conv, dtype=dtype), *layouts, threads, target))


FAULTS = {
    "units": -1, "chunk_blocks": -1, "box2": -1, "co": -1, "least2": 1, "at_block": -256,
    "at_counts": 8, "thread_bytes": -4096, "blocks": 1, "step1": 1,
    "ahead1": 1, "first_slots2": -1, "apart2": 4, "at_raws2": 1, "span1": 1, "jump2": 1,
    "count1": 1, "at_phases1": 1,
}  # fmt: skip


@pytest.mark.parametrize("word", FAULTS)
def test_this_can_fail(word: str) -> None:
    """One word that is slightly wrong is noticed."""
    s = Simulated(Conv.parse("conv2d 2x64x30x30 o200 k3 p1"), True, True, 2)
    check(s)
    s.words[word] += FAULTS[word]
    s.all[JOB.index(word)] += FAULTS[word]
    with pytest.raises((AssertionError, IndexError, ValueError)):
        check(s)


@pytest.mark.parametrize(
    "text", ["2x64x12x12x12 o20 k3 p1", "1x8x5x400x40 o8 k3 p1x100x1 d1x100x1"]
)
def test_wrong_tables_are_noticed(text: str) -> None:
    """Any word of the phases' records, of the triples or of the slots' raw sources."""
    s = Simulated(Conv.parse(f"conv3d {text}"), True, True, 2)
    assert s.words["even"] == ("100" not in text)
    for at in range(len(JOB), len(s.all)):
        s.all[at] += 1
        with pytest.raises((AssertionError, IndexError, ValueError)):
            check(s)
        s.all[at] -= 1
    check(s)


# Threads

SAME = (
    "mode", "groups", "ci", "co", "channels", "reduction", "run", "blocks", "tail",
    "passes", "share",
    "x_batch", "x_channel", "y_batch", "y_channel",
    *(f"{name}{a}" for a in AXES for name in (
        "size", "x_stride", "y_stride", "count", "outputs", "jump", "least", "span", "step",
        "phases",
    )),
)  # fmt: skip


def test_threads_change_no_plan() -> None:
    """Nor any word that says what is computed, only how it is cut."""
    for conv, layouts in product(PROBLEMS, LAYOUTS):
        one = Simulated(conv, *layouts, 1)
        for threads in (2, 1024):
            many = Simulated(conv, *layouts, threads)
            assert one.plan == many.plan
            assert {n: one.words[n] for n in SAME} == {n: many.words[n] for n in SAME}, str(many)


def test_tiny_work_is_done_alone() -> None:
    """Below ALONE multiply-adds one thread, from there on as many as there are."""
    seen = set[bool]()
    for conv in PROBLEMS:
        tiny = conv.exact_macs < ALONE
        assert Simulated(conv, True, True, 5).job.threads == (1 if tiny else 5)
        seen.add(tiny)
    assert seen == {True, False}
    edge = Conv.parse("conv2d 1x6x100x100 o1 k1")
    assert edge.exact_macs == ALONE
    assert Simulated(edge, True, True, 2).job.threads == 2
    assert Simulated(edge.with_size(100, 99), True, True, 2).job.threads == 1


@pytest.mark.parametrize("threads", [2, 8])
def test_threads_finish_together(threads: int) -> None:
    """None has a third more units than the average, unless units are small already."""
    for conv, layouts in product(FILES["article.txt"], LAYOUTS):
        s = Simulated(conv, *layouts, threads)
        units = s.words["units"]
        small = prod(s.axis("box")) < 2 * FEWEST and s.words["chunk_blocks"] == 1
        assert -(-units // threads) * threads <= 1.34 * units or small, str(s)


def test_weights_beyond_the_cache_are_shared_out() -> None:
    """512@7: 9 MB of weights go over the threads, not each of them over all threads."""
    s = Simulated(Conv.parse("conv2d 1x512x7x7 o512 k3 p1"), True, True, 2)
    assert s.words["chunks"] >= 2
    assert s.axis("boxes") == [1, 1, 1]


@pytest.mark.parametrize("l2", [256 * 1024, MIB, 4 * MIB])
def test_packed_images_fit_into_the_cache(l2: int) -> None:
    """Two fifths of it, unless units would be tiny or a single output reads as much."""
    target = replace(llvm.detect(), l2=l2)
    for conv in FILES["article.txt"]:
        s = Simulated(conv, True, True, 2, target)
        pixel = s.words["held"] * s.size
        image, field = prod(map(s.slots, AXES)) * pixel, prod(s.axis("first_slots")) * pixel
        assert image <= max(l2 * 2 // 5, FIELDS * field) or prod(s.axis("box")) < 2 * FEWEST, str(s)


@pytest.mark.parametrize(
    "line",
    [
        "conv1d 1x768x499 o768 k128 p64 g16",
        "conv1d 1x1024x1999 o1024 k128 p64 g16",
        "conv2d 1x64x56x56 o64 k31 p15",
        "conv3d 1x64x16x28x28 o64 k11 p5",
    ],
)
def test_fields_beyond_the_cache_have_many_outputs(line: str) -> None:
    """Where what a single output reads fills it, small boxes would read as much for a few."""
    s = Simulated(Conv.parse(line), True, True)
    assert prod(s.axis("box")) >= FEWEST


def test_large_dilation_keeps_little() -> None:
    """A sparse axis has slots for what is read, and for nothing between."""
    s = Simulated(Conv.parse("conv2d 1x8x400x400 o8 k3 p100 d100"), True, True)
    sparse = [a for a in AXES if s.words[f"first_slots{a}"] != s.words[f"span{a}"] + 1]
    assert 1 in sparse
    assert not s.words["even"]
    for a in sparse:
        assert s.words[f"ahead{a}"] == s.words[f"first_slots{a}"] == 3
        assert s.slots(a) <= 3 * s.words[f"box{a}"] < 200
    assert s.words["thread_bytes"] <= MIB


def test_a_hollow_image_has_uneven_tiles() -> None:
    """Packed and mostly padding: tiles look for taps to leave out. Others need not, or do so."""
    hollow = "conv1d 1x768x49 o768 k128 p64 g16"
    for text, packed, even in [
        (hollow, True, False),
        (hollow, False, True),
        ("conv1d 1x768x999 o768 k128 p64 g16", True, True),
        ("conv2d 1x3x9x9 o8 k7 p9", True, True),  # runs of taps, which are not left out
    ]:
        s = Simulated(Conv.parse(text), packed, packed)
        assert s.plan.algorithm == "direct"
        assert bool(s.words["even"]) == even, text


def test_deep_images_are_read_once() -> None:
    """Channels-last, 17 MB: boxes that stay in the cache take all output channels."""
    s = Simulated(Conv.parse("conv2d 1x1024x65x65 o256 k1"), False, False, 2)
    assert s.words["chunks"] == 1
    assert s.words["box2"] * 1024 * 4 <= llvm.detect().l2


def test_nothing_to_do() -> None:
    for layouts in LAYOUTS:
        s: Any = Simulated(Conv.parse("conv2d 0x6x9x9 o10 k3 p1"), *layouts, 2)
        assert s.words["units"] == 0
        assert list(s.units()) == []
        assert s.job.threads == 1
    assert module.ALONE > 0


FLAT = [
    ("conv2d 3x5x4x6 o7 k1", (True, True), (3, (24,))),
    ("conv2d 3x5x4x6 o7 k1", (False, False), (1, (72,))),
    ("conv2d 3x5x4x6 o7 k1", (True, False), (3, (24,))),
    ("conv2d 3x5x4x1 o7 k1", (False, False), (1, (12,))),
    ("conv2d 3x5x1x1 o7 k1", (False, False), (1, (3,))),
    ("conv3d 2x5x3x4x6 o7 k1", (True, True), (2, (72,))),
    ("conv1d 3x5x6 o7 k1", (False, False), (1, (18,))),
    ("conv2d 3x5x4x6 o7 k1 p1", (True, True), None),
    ("conv2d 3x5x4x6 o7 k1 s2", (True, True), None),
    ("conv2d 3x5x4x6 o7 k1x3 p0x1", (True, True), None),
]


@pytest.mark.parametrize(("line", "first", "seen"), FLAT)
def test_flat(line: str, first: tuple[bool, bool], seen: Any) -> None:
    """Pixels one after another are one axis, of all images if they go on; each where it lay."""
    conv = Conv.parse(line)
    strides = [
        dense_strides(shape, not contiguous)
        for shape, contiguous in zip((conv.in_shape, conv.out_shape), first, strict=True)
    ]
    flat, *found = module.flat(conv, *strides)
    if seen is None:
        assert (flat, found) == (conv, strides)
        return
    assert (flat.n, tuple(axis.size for axis in flat.axes)) == seen
    for shape, before, after in zip((flat.in_shape, flat.out_shape), strides, found, strict=True):
        own = (conv.n, shape[1], *(axis.size for axis in conv.axes))
        old = np.einsum("i...,i->...", np.indices(own), np.array(before))
        new = np.einsum("i...,i->...", np.indices(shape), np.array(after))
        moved = np.moveaxis(old, 1, -1).reshape(-1, shape[1])
        assert np.array_equal(moved, np.moveaxis(new, 1, -1).reshape(-1, shape[1]))


def test_gaps_are_not_flat() -> None:
    """Rows, planes or images apart from each other are what they were, or flat without images."""
    conv = Conv.parse("conv2d 3x5x4x6 o7 k1")
    x, y = dense_strides(conv.in_shape, True), dense_strides(conv.out_shape, True)
    wide_rows = (x[0], x[1], x[2] + 5, x[3])
    assert module.flat(conv, wide_rows, y) == (conv, wide_rows, y)
    apart = (x[0] + 5, *x[1:])
    flat, *_ = module.flat(conv, apart, y)
    assert (flat.n, flat.axes[0].size) == (3, 24)
