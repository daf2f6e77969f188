"""A planar job's words, read as its kernel reads them: every output once, every tap its source, all
memory apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
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
from konv.kernels import planar
from konv.kernels.planar.schedule import FEWEST
from konv.kernels.planar.strip import JOB, PHASE, ROW, TAP
from konv.kernels.schedule import ALONE, MODES
from konv.kernels.scratch import LINE, PAGE
from konv.kernels.words import AXES
from konv.runtime.job import schedule
from konv.target import BYTES, Target

FOLDER = Path(__file__).resolve().parents[2] / "problems"
FILES = {
    file.name: [
        conv
        for _, conv in read_problems(file.read_text("utf-8"))
        if planar.why_not(conv, llvm.detect()) is None
    ]
    for file in sorted(FOLDER.glob("*.txt"))
}
LAYOUTS = list(product((True, False), repeat=2))
MIB = 1024 * 1024
UNWRITTEN, PADDING = -2, -1
AT_ONCE = 2**18  # numbers of several taps that are looked at together
NOWHERE = 10**12  # the index of a tap between two pixels


@dataclass(frozen=True)
class Unit:
    """A unit as konv.kernels.planar.units takes it: its image, groups and box."""

    image: int
    first: int
    groups: int
    j: tuple[int, ...]
    width: tuple[int, ...]


class Simulated:
    """A planar job for a problem in a pair of layouts."""

    def __init__(
        self,
        conv: Conv,
        layouts: tuple[bool, bool],
        threads: int = 1,
        target: Target | None = None,
        which: int = 0,
    ) -> None:
        self.target, self.conv, self.threads = target or llvm.detect(), conv, threads
        plans = planar.plans(conv, self.target, *layouts)
        self.plan = plans[which % len(plans)]
        self.x = dense_strides(conv.in_shape, not layouts[0])
        self.y = dense_strides(conv.out_shape, not layouts[1])
        self.job = schedule(conv, self.plan, self.target, self.x, self.y, threads)
        self.all: list[int] = self.job.words.tolist()
        self.words = dict(zip(JOB, self.all, strict=False))
        self.axes = (Axis(1, 1),) * (3 - conv.dims) + conv.axes
        self.lanes, self.size = self.target.lanes(conv.dtype), BYTES[conv.dtype]
        self.known: dict[tuple[int, bytes], np.ndarray[Any, Any]] = {}
        self.pixels: dict[int, dict[int, int]] = {}

    def __str__(self) -> str:
        return f"{self.conv}, {self.plan}, {self.threads} threads"

    def axis(self, name: str) -> list[int]:
        return [self.words[f"{name}{a}"] for a in AXES]

    def phases(self) -> Iterator[dict[str, int]]:
        """The record of each phase of the outputs."""
        at, count = self.words["at_phases"], prod(self.axis("phases"))
        for i in range(at, at + count * len(PHASE), len(PHASE)):
            yield dict(zip(PHASE, self.all[i : i + len(PHASE)], strict=True))

    def taps(self, phase: dict[str, int]) -> dict[int, int]:
        """Number of a tap in the kernel -> where it reads, counted from an output's place."""
        at = phase["at_taps"]
        pairs = np.reshape(self.all[at : at + TAP * phase["reach"]], (-1, TAP)).tolist()
        taps = {number: offset for offset, number in pairs}
        assert len(taps) == phase["reach"], f"{self}: a tap is there twice"
        return taps

    def raws(self, a: int) -> np.ndarray[Any, Any]:
        """[phase][place] -> raw source, counted from a box's first."""
        at, shape = self.words[f"at_raws{a}"], (self.words[f"kept{a}"], self.words[f"length{a}"])
        assert len(JOB) <= at < at + prod(shape) <= len(self.all)
        return np.reshape(self.all[at : at + prod(shape)], shape)

    def sources(self, a: int, outputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """[output][tap] -> the pixel that geometry says, or PADDING.

        In whole arrays, for an axis may have 58112 outputs of 1024 taps; those of the first and the
        last output are held against `Axis.source` itself. Units of a row have theirs in common.
        """
        key = a, outputs.tobytes()
        if key not in self.known:
            self.known[key] = self._sources(a, outputs)
        return self.known[key]

    def _sources(self, a: int, outputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        axis, mode = self.axes[a], self.conv.mode if a >= 3 - self.conv.dims else "zeros"
        taps = np.arange(axis.kernel) * axis.dilation
        index, rest = np.divmod(np.add.outer(outputs * axis.stride - axis.lo, taps), axis.up)
        places, which = np.unique(np.where(rest, NOWHERE, index), return_inverse=True)
        pixels = [None if i == NOWHERE else fold(i, axis.size, mode) for i in places.tolist()]
        found = np.array([PADDING if i is None else i for i in pixels])[which.reshape(index.shape)]
        for o in (0, -1):
            said = [axis.source(int(outputs[o]), k, mode) for k in range(axis.kernel)]
            assert found[o].tolist() == [PADDING if i is None else i for i in said], f"{axis}"
        return found

    def folded(self, a: int, raw: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Raw source -> the pixel it means, or PADDING; units have most of theirs in common."""
        axis, mode = self.axes[a], self.conv.mode if a >= 3 - self.conv.dims else "zeros"
        known = self.pixels.setdefault(a, {})
        for i in set(raw.flat) - known.keys():
            pixel = fold(int(i), axis.size, mode)
            known[i] = PADDING if pixel is None else pixel
        return np.reshape([known[i] for i in raw.flat], raw.shape)

    def units(self) -> Iterator[Unit]:
        w, box = self.words, self.axis("box")
        for number in range(w["units"]):
            rest, chunk = divmod(number, w["chunks"])
            j = [0, 0, 0]
            for a in reversed(AXES):
                rest, at = divmod(rest, w[f"boxes{a}"])
                j[a] = at * box[a]
            first = chunk * w["chunk"]
            width = tuple(min(box[a], w[f"count{a}"] - j[a]) for a in AXES)
            yield Unit(rest, first, min(w["chunk"], w["groups"] - first), tuple(j), width)

    def lengths(self, unit: Unit, phase: dict[str, int]) -> tuple[int, ...]:
        """Outputs of a phase in a unit, on each axis."""
        return tuple(max(0, min(unit.width[a], phase[f"outputs{a}"] - unit.j[a])) for a in AXES)


def check(s: Simulated, every: bool = True) -> None:
    """`every`: the sources of all units, else of the first and the last one."""
    __tracebackhide__ = True
    words_are_right(s)
    all_work_once(s)
    units = list({(unit.j, unit.width): unit for unit in s.units()}.values())
    for unit in units if every else units[:1] + units[-1:]:
        sources_are_right(s, unit)
    parts_are_apart(s)


def words_are_right(s: Simulated) -> None:
    """What is copied from the layer and its arrays; what the emitted code knows without words."""
    w, conv, missing = s.words, s.conv, (0,) * (3 - s.conv.dims)
    assert (w["groups"] * w["ci"], w["groups"] * w["co"]) == (conv.ci, conv.co)
    assert (w["groups"], w["mode"]) == (conv.groups, MODES[conv.mode])
    assert w["taps"] == prod(axis.kernel for axis in conv.axes)
    assert (w["x_batch"], w["x_channel"], w["y_batch"], w["y_channel"]) == (*s.x[:2], *s.y[:2])
    assert s.axis("x_stride") == [*missing, *s.x[2:]]
    assert s.axis("y_stride") == [*missing, *s.y[2:]]
    assert s.axis("size") == [axis.size for axis in s.axes]
    phases = list(s.phases())
    assert s.axis("count") == [max(p[f"outputs{a}"] for p in phases) for a in AXES]
    assert s.axis("inside") == [w["face"], w["pitch"], 1]
    nc, tail, jump, kept = s.plan.form[:4]
    assert w["co"] % nc == tail
    if (jump, kept) != (0, 0):
        assert (w["jump2"], w["kept2"]) == (jump, kept), f"{s}: the code deals rows out another way"
    for a in AXES:
        raws = s.raws(a)
        assert (np.diff(raws, axis=1) == w[f"jump{a}"]).all(), f"{s}: {a}: no even steps"
        assert (raws[0, 0], w[f"length{a}"]) == (0, w[f"box{a}"] + w[f"reach{a}"])


def all_work_once(s: Simulated) -> None:
    """Every image, channel and output, by one unit and phase."""
    w = s.words
    done = np.zeros((s.conv.n, s.conv.co, *(axis.out for axis in s.axes)), np.int16)
    phases = list(s.phases())
    for unit in s.units():
        assert unit.groups >= 1
        assert min(unit.width) >= 1
        channels = slice(unit.first * w["co"], (unit.first + unit.groups) * w["co"])
        for phase in phases:
            spans = []
            for a, length in enumerate(s.lengths(unit, phase)):
                begin = unit.j[a] * w[f"step{a}"] + phase[f"first{a}"]
                end = begin + (length - 1) * w[f"step{a}"] + 1
                assert length == 0 or end <= s.axes[a].out
                spans.append(slice(begin, max(begin, end), w[f"step{a}"]))
            if min(s.lengths(unit, phase)):
                done[unit.image, channels, spans[0], spans[1], spans[2]] += 1
    assert (done == 1).all(), f"{s}: {int((done != 1).sum())} of {done.size} not once"


def strip_of(s: Simulated, unit: Unit) -> np.ndarray[Any, Any]:
    """One channel of a unit's strip: the number of the pixel in each place, or PADDING."""
    w, sizes = s.words, [axis.size for axis in s.axes]
    tables = []
    for a in AXES:
        raw = s.raws(a) + unit.j[a] * w[f"jump{a}"] + w[f"least{a}"]
        count = w[f"reach{a}"] + unit.width[a]
        tables.append(s.folded(a, raw)[:, :count])
        assert tables[a].shape[1] == count, f"{s}: {a}: fewer places than the unit has"
    # [place on axis 0 and 1] -> where the row begins, and [place on axis 2] -> where in the row
    deep, high = (
        np.add.outer(np.arange(t.shape[0]) * w[f"apart{a}"], np.arange(t.shape[1]) * w[step])
        for a, (t, step) in enumerate(zip(tables[:2], ("face", "pitch"), strict=True))
    )
    rows = np.add.outer(deep.ravel(), high.ravel()).ravel()
    parts = np.add.outer(rows, np.arange(w["kept2"]) * w["apart2"]).ravel()
    assert 0 <= parts.min() <= parts.max() + w["pitch"] <= w["plane"], f"{s}: beside the strip"
    assert (np.diff(np.sort(parts)) >= w["pitch"]).all(), f"{s}: rows overlap"
    planes, lines, pixels = (t.ravel() for t in tables)
    found = (np.add.outer(planes * sizes[1], lines)[..., None] * sizes[2] + pixels).ravel()
    none = np.logical_or.outer(np.logical_or.outer(planes < 0, lines < 0), pixels < 0).ravel()
    strip = np.full(w["plane"], UNWRITTEN)
    strip[np.add.outer(parts, np.arange(tables[2].shape[1])).ravel()] = np.where(
        none, PADDING, found
    )
    return strip


def grid(rows: np.ndarray[Any, Any], columns: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """[tap][row] and [tap][column] -> [tap][row][column], their sum; of truths, whether one is."""
    sums: np.ndarray[Any, Any] = rows[:, :, None] + columns[:, None]
    return sums


def sources_are_right(s: Simulated, unit: Unit) -> None:
    """What each tap reads for each output of a unit is the pixel or padding that geometry says."""
    w, strip, sizes = s.words, strip_of(s, unit), [axis.size for axis in s.axes]
    kernel = [axis.kernel for axis in s.axes]
    for phase in s.phases():
        lengths, taps = s.lengths(unit, phase), s.taps(phase)
        if not min(lengths):
            continue
        outputs = [
            (unit.j[a] + np.arange(lengths[a])) * w[f"step{a}"] + phase[f"first{a}"] for a in AXES
        ]
        places = np.add.outer(
            np.add.outer(np.arange(lengths[0]) * w["face"], np.arange(lengths[1]) * w["pitch"]),
            np.arange(lengths[2]),
        )
        found = [s.sources(a, outputs[a]) for a in AXES]  # [output][tap of the axis]
        alive = [np.flatnonzero((found[a] != PADDING).any(axis=0)).tolist() for a in AXES]
        reading = set(np.ravel_multi_index(np.ix_(*alive), kernel).ravel().tolist())
        assert reading <= taps.keys(), f"{s}: taps are left out in {phase}"
        numbers, offsets = np.array([*taps.items()], np.int64).reshape(-1, 2).T
        assert (offsets >= 0).all()
        least = max(1, AT_ONCE // places.size)
        for some in np.split(np.arange(len(taps)), range(least, len(taps), least)):
            ks = np.unravel_index(numbers[some], kernel)
            deep, high, line = (found[a].T[k] for a, k in enumerate(ks))  # [tap][output]
            want = grid(deep * sizes[1], high)[..., None] * sizes[2] + line[:, None, None]
            none = grid(deep < 0, high < 0)[..., None] | (line < 0)[:, None, None]
            got = strip[places + offsets[some, None, None, None]]
            wrong = (got != np.where(none, PADDING, want)).any(axis=(1, 2, 3))
            assert not wrong.any(), f"{s}: taps {numbers[some][wrong]} in {unit}, {phase}"
        # What tiles read in whole vectors stays in the strip and the slack behind it.
        outs = (lengths[1] - 1) * w["pitch"] + lengths[2]
        vectors = -(-outs // s.lanes) * s.lanes
        last = (unit.groups * w["ci"] - 1) * w["plane"] + (lengths[0] - 1) * w["face"]
        last += vectors - 1 + max(taps.values(), default=0)
        assert last < (w["at_block"] - w["at_strip"] - LINE) // s.size, f"{s}: reads beyond"
        assert max(vectors, outs + s.lanes) <= w["block"], f"{s}: writes beyond the block"


def parts_are_apart(s: Simulated) -> None:
    """Each part of the scratch memory is as long as what is written to it, on lines of its own."""
    w = s.words
    slots = [w[f"kept{a}"] * w[f"length{a}"] for a in AXES]
    need = {
        **{f"at_slots{a}": 8 * slots[a] for a in AXES},
        "at_rows": 8 * ROW * slots[0] * slots[1],
        "at_strip": w["chunk"] * w["ci"] * w["plane"] * s.size,
        "at_block": s.plan.form[0] * w["block"] * s.size,
    }
    assert set(need) == {name for name in JOB if name.startswith("at_")} - {
        "at_phases", *(f"at_raws{a}" for a in AXES)
    }, "a part of the scratch memory is not known here"  # fmt: skip
    assert w["face"] == w["length1"] * w["pitch"]
    assert w["pitch"] == w["length2"]
    assert w["plane"] == prod(slots)
    order = sorted(need, key=lambda name: w[name])
    begins = [w[name] for name in order]
    assert begins[0] >= 0
    assert all(begin % 64 == 0 for begin in begins)
    for name, begin, end in zip(order, begins, [*begins[1:], w["thread_bytes"]], strict=True):
        assert begin + need[name] <= end, f"{s}: {name} reaches into the next part"
    assert w["thread_bytes"] % 64 == 0
    assert s.job.scratch == w["thread_bytes"] * s.job.threads


@pytest.mark.parametrize("threads", [1, 13])
@pytest.mark.parametrize("layouts", [(True, True), (False, True)], ids=str)
@pytest.mark.parametrize("file", FILES)
def test_all_problems(file: str, layouts: tuple[bool, bool], threads: int) -> None:
    for conv in FILES[file]:
        s = Simulated(conv, layouts, threads)
        check(s, every=conv.macs < 10**6)
        assert s.words["thread_bytes"] <= 2 * MIB, str(s)


@pytest.mark.parametrize("layouts", LAYOUTS, ids=str)
def test_in_small_units(layouts: tuple[bool, bool]) -> None:
    """Many units for each of these small problems, and every register tile."""
    for number, conv in enumerate(FILES["shapes.txt"]):
        for fewest in (1, 6):
            with small_units(1, fewest):
                check(Simulated(conv, layouts, 3, which=number))


@given(
    convs(most=9),
    st.sampled_from(LAYOUTS),
    st.sampled_from((1, 2, 64)),
    st.sampled_from((1, 6, 256)),
    st.sampled_from((1, 20_000, 10**6)),
    st.sampled_from(("float32", "float64")),
)
def test_random(
    conv: Conv, layouts: tuple[bool, bool], threads: int, fewest: int, l2: int, dtype: str
) -> None:
    """Axes that no user could write too, such as adjoints of adjoints, and caches of any size."""
    with small_units(1, fewest):
        target = replace(llvm.detect(), l2=l2)
        check(Simulated(replace(conv, dtype=dtype), layouts, threads, target))


FAULTY = "conv3d 2x6x9x17x16 o10 k3 s2 p1 g2"  # all axes in several boxes, dealt out to phases
ERRORS = (AssertionError, IndexError, ValueError)


@pytest.mark.parametrize("word", sorted(set(JOB) - {"block"}))  # which has room to spare
def test_this_can_fail(word: str) -> None:
    """Any word that is one too large is noticed; a part of the scratch memory that begins too early
    by more than is unused before it.
    """
    with small_units(1, 4):
        s = Simulated(Conv.parse(FAULTY), (True, True), 2)
    check(s)
    assert s.axis("boxes") > [1, 1, 0]
    by = {"at_strip": -2 * LINE, "at_rows": -2 * LINE, "at_block": -PAGE}.get(word, 1)
    s.words[word] += by
    s.all[JOB.index(word)] += by
    with pytest.raises(ERRORS):
        check(s)


@pytest.mark.parametrize("text", [FAULTY, "tconv2d 1x6x19x18 o14 k4x3 s2 p1 g2"])
def test_wrong_tables_are_noticed(text: str) -> None:
    """Any word of the phases' records, of the taps' lists or of the places' raw sources."""
    with small_units(1, 100):
        s = Simulated(Conv.parse(text).with_batch(1), (True, True), 2)
    for at in range(len(JOB), len(s.all)):
        s.all[at] += 1
        with pytest.raises(ERRORS):
            check(s)
        s.all[at] -= 1
    check(s)


def test_threads_change_only_how_it_is_cut() -> None:
    cut = {"units", "thread_bytes", "pitch", "face", "plane", "block"}
    apart = ("box", "boxes", "length", "apart", "inside", "at_raws", "at_slots")
    cut |= {name for name in JOB if name.startswith("at_")}
    cut |= {f"{name}{a}" for name in apart for a in AXES}
    for conv, layouts in product(FILES["article.txt"], LAYOUTS):
        one = Simulated(conv, layouts, 1)
        for threads in (2, 16, 1024):
            many = Simulated(conv, layouts, threads)
            assert one.plan == many.plan
            for name in set(JOB) - cut:
                assert one.words[name] == many.words[name], f"{many}: {name}"


@pytest.mark.parametrize("threads", [2, 8])
def test_enough_units(threads: int) -> None:
    """Four a thread, unless they would be tiny; tiny layers are done alone."""
    for conv, layouts in product(FILES["article.txt"], LAYOUTS):
        s = Simulated(conv, layouts, threads)
        if conv.exact_macs < ALONE:
            assert s.job.threads == 1
        else:
            assert s.job.threads == threads
            assert s.words["units"] >= 4 * threads or prod(s.axis("box")) < 2 * FEWEST, str(s)


@pytest.mark.parametrize("l2", [256 * 1024, MIB, 4 * MIB])
def test_strips_fit_into_the_cache(l2: int) -> None:
    """A quarter of it, unless units would be tiny."""
    target = replace(llvm.detect(), l2=l2)
    for conv, layouts in product(FILES["article.txt"], LAYOUTS):
        s = Simulated(conv, layouts, 2, target)
        strip = s.words["chunk"] * s.words["ci"] * s.words["plane"] * s.size
        assert strip <= l2 // 4 or prod(s.axis("box")) < 2 * FEWEST, str(s)


def test_nothing_to_do() -> None:
    for layouts in LAYOUTS:
        s = Simulated(Conv.parse("conv2d 0x6x9x9 o10 k3 p1"), layouts, 2)
        assert list(s.units()) == []
        assert s.job.threads == 1
