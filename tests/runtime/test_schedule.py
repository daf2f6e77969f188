"""A job's words, read as a kernel reads them: all work once, all memory apart, all reads in it."""

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
from konv.kernels import by_name
from konv.kernels.tables import TAP
from konv.kernels.words import AXES, JOB, PHASE
from konv.plan import Plan
from konv.runtime import schedule as module
from konv.runtime.choose import choose
from konv.runtime.schedule import ALONE, FEWEST, Job, schedule
from konv.target import BYTES, Target

FOLDER = Path(__file__).resolve().parents[2] / "problems"
FILES = {
    file.name: [conv for _, conv in read_problems(file.read_text("utf-8"))]
    for file in sorted(FOLDER.glob("*.txt"))
}
PROBLEMS = [conv for problems in FILES.values() for conv in problems]
LAYOUTS = list(product((True, False), repeat=2))
MIB = 1024 * 1024
# Scratch memory of a thread, at most: 2.1 MB for 31 x 31 taps, else below one.
BOUNDS = {"article.txt": 4 * MIB, "shapes.txt": MIB}


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
        self.plan: Plan = choose(conv, self.target, packed, blocked)
        if which:
            plans = by_name(self.plan.algorithm).plans(conv, self.target, packed, blocked)
            self.plan = plans[which % len(plans)]
        strides = (
            dense_strides(conv.in_shape, not packed),
            dense_strides(conv.out_shape, not blocked),
        )
        self.job: Job = schedule(conv, self.plan, self.target, *strides, threads)
        self.all: list[int] = self.job.words.tolist()
        self.words = dict(zip(JOB, self.all, strict=False))
        self.axes = (Axis(1, 1),) * (3 - conv.dims) + conv.axes
        self.size, self.lanes = BYTES[conv.dtype], self.target.lanes(conv.dtype)

    def __str__(self) -> str:
        return f"{self.conv}, {self.plan}, {self.threads} threads"

    def axis(self, name: str) -> list[int]:
        return [self.words[f"{name}{a}"] for a in AXES]

    def phases(self, a: int) -> list[dict[str, int]]:
        at = self.words[f"at_phases{a}"]
        records = range(at, at + len(PHASE) * self.words[f"phases{a}"], len(PHASE))
        return [dict(zip(PHASE, self.all[i : i + len(PHASE)], strict=True)) for i in records]

    def pairs(self, phase: dict[str, int]) -> list[tuple[int, int]]:
        """(tap, slot counted from a pixel's first) of a phase."""
        at = phase["at_pairs"]
        return [(self.all[at + 2 * i], self.all[at + 2 * i + 1]) for i in range(phase["reach"])]

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
    slots_are_kept(s)
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


def sources_are_right(s: Simulated) -> None:
    """What a tap reads for an output is what geometry says; no tap is left out, none is double."""
    for a, axis in enumerate(s.axes):
        inner = prod(other.kernel for other in s.axes[a + 1 :])
        jump, least = s.words[f"jump{a}"], s.words[f"least{a}"]
        mode = s.conv.mode if a >= 3 - s.conv.dims else "zeros"
        for p in s.phases(a):
            pairs = s.pairs(p)
            assert len({tap for tap, _ in pairs}) == len(pairs)
            for j in sorted({0, 1, p["outputs"] // 2, p["outputs"] - 2, p["outputs"] - 1}):
                if not 0 <= j < p["outputs"]:
                    continue
                o = p["first"] + j * s.words[f"step{a}"]
                got = {
                    tap // inner: fold(j * jump + c + least, axis.size, mode) for tap, c in pairs
                }
                want = {k: axis.source(o, k, mode) for k in range(axis.kernel)}
                assert all(got.get(k) == source for k, source in want.items()), f"{s}: {a}, {o}"


def slots_are_kept(s: Simulated) -> None:
    """Every slot that a tap reads is in the unit's table, and at a place within a packed image."""
    box, kept = s.axis("box"), s.axis("kept")
    last_place = 0
    for a in AXES:
        jump, span = s.words[f"jump{a}"], s.words[f"span{a}"]
        slots = (box[a] - 1) * jump + span + 1
        at = s.words[f"at_kept{a}"]
        offsets = s.all[at : at + kept[a]]
        places = s.all[s.words[f"at_bytes{a}"] :][:slots]
        apart = s.conv.ci * s.size * prod(kept[a + 1 :])
        assert offsets == sorted(set(offsets))
        assert 0 <= offsets[0] <= offsets[-1] < slots == len(places)
        assert [places[slot] for slot in offsets] == [i * apart for i in range(kept[a])]
        assert not s.words["even"] or offsets == list(range(slots)), f"{s}: even with gaps"
        held = set(offsets)
        for p in s.phases(a):
            for _, c in s.pairs(p):
                assert 0 <= c <= span
                assert held.issuperset(range(c, c + (box[a] - 1) * jump + 1, jump)), f"{s}: {a}"
        last_place += places[offsets[-1]]
    if s.plan.packed:
        room = s.words["at_block"] - s.words["at_image"]
        assert last_place + s.conv.ci * s.size <= room, f"{s}: the packed image is too long"


def parts_are_apart(s: Simulated) -> None:
    """Each part of the scratch memory is as long as what is written to it, on lines of its own."""
    w, box = s.words, s.axis("box")
    tiles = -(-prod(box) // s.plan.pixels)
    taps = prod(max(p["reach"] for p in s.phases(a)) for a in AXES)
    width = s.plan.vectors * s.lanes
    need = {
        **{f"at_slots{a}": 8 * ((box[a] - 1) * w[f"jump{a}"] + w[f"span{a}"] + 1) for a in AXES},
        "at_taps": 8 * TAP * taps,
        "at_counts": 8 * tiles,
        "at_places": 8 * tiles * s.plan.pixels,
        "at_rows": 8 * tiles * taps * (s.plan.pixels + 1),
        "at_zeros": 0 if s.plan.packed else s.conv.ci * s.size,
        "at_image": s.conv.ci * prod(s.axis("kept")) * s.size if s.plan.packed else 0,
        "at_block": (tiles * s.plan.pixels * width if s.plan.blocked else s.conv.co) * s.size,
    }
    assert set(need) == {name for name in JOB if name.startswith("at_")} - {
        f"{name}{a}" for name in ("at_phases", "at_kept", "at_bytes") for a in AXES
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


@pytest.mark.parametrize("threads", [1, 2, 13])
@pytest.mark.parametrize("layouts", LAYOUTS, ids=str)
@pytest.mark.parametrize("file", FILES)
def test_all_problems(file: str, layouts: tuple[bool, bool], threads: int) -> None:
    for conv in FILES[file]:
        s = Simulated(conv, *layouts, threads)
        check(s)
        assert s.words["thread_bytes"] <= BOUNDS[file], str(s)


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
    "at_counts": 8, "thread_bytes": -4096, "kept1": -1, "blocks": 1, "step1": 1,
}  # fmt: skip


@pytest.mark.parametrize("word", FAULTS)
def test_this_can_fail(word: str) -> None:
    """One word that is wrong by one is noticed."""
    s = Simulated(Conv.parse("conv2d 2x64x30x30 o200 k3 p1"), True, True, 2)
    check(s)
    s.words[word] += FAULTS[word]
    s.all[JOB.index(word)] += FAULTS[word]
    with pytest.raises((AssertionError, IndexError, ValueError)):
        check(s)


# Threads

SAME = (
    "mode", "groups", "ci", "co", "taps", "blocks", "tail",
    "x_batch", "x_channel", "y_batch", "y_channel",
    *(f"{name}{a}" for a in AXES for name in (
        "size", "x_stride", "y_stride", "count", "jump", "least", "span", "step", "phases",
    )),
)  # fmt: skip


def test_threads_change_no_plan() -> None:
    """Nor any word that says what is computed, only how it is cut."""
    for conv, layouts in product(PROBLEMS, LAYOUTS):
        one = Simulated(conv, *layouts, 1)
        for threads in (2, 3, 16, 1024):
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
def test_enough_units(threads: int) -> None:
    """Four a thread, unless they would be tiny."""
    for conv, layouts in product(FILES["article.txt"], LAYOUTS):
        s = Simulated(conv, *layouts, threads)
        small = prod(s.axis("box")) < 2 * FEWEST
        uneven = s.words["chunk_blocks"] == 1 or 2 * s.words["units"] > 4 * threads
        assert s.words["units"] >= 4 * threads or (small and uneven), str(s)


@pytest.mark.parametrize("l2", [256 * 1024, MIB, 4 * MIB])
def test_packed_images_fit_into_the_cache(l2: int) -> None:
    """Two fifths of it, unless units would be tiny."""
    target = replace(llvm.detect(), l2=l2)
    for conv in FILES["article.txt"]:
        s = Simulated(conv, True, True, 2, target)
        image = prod(s.axis("kept")) * conv.ci * s.size
        assert image <= l2 * 2 // 5 or prod(s.axis("box")) < 2 * FEWEST, str(s)


def test_large_dilation_keeps_little() -> None:
    """Outer axes pack only the rows that are read; the inner one all between."""
    s = Simulated(Conv.parse("conv2d 1x8x400x400 o8 k3 p100 d100"), True, True)
    assert s.axis("kept")[1] <= 3 * s.axis("box")[1] < 100
    assert not s.words["even"]
    assert s.words["thread_bytes"] <= MIB


def test_nothing_to_do() -> None:
    for layouts in LAYOUTS:
        s: Any = Simulated(Conv.parse("conv2d 0x6x9x9 o10 k3 p1"), *layouts, 2)
        assert s.words["units"] == 0
        assert list(s.units()) == []
        assert s.job.threads == 1
    assert module.ALONE > 0
