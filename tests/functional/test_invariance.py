"""The same bits whatever else is computed: threads, batch, crop, units, padding done here or
there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import product
from math import prod
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from functional.case import Case
from functional.check import forget, pinned, plans, recording, small_units, threads, units
from functional.draw import Dice, accepted
from functional.forms import FORMS, Array, numbers
from functional.witness import expected

from konv import llvm
from konv.geometry import Axis, Conv
from konv.kernels import ALGORITHMS
from konv.kernels.fourier.fit import outputs_of
from konv.kernels.spectra.cut import outputs_of as squares
from konv.kernels.subpixel.grid import shift_of
from konv.kernels.winograd.count import order, three
from konv.kernels.winograd.transforms import transforms
from konv.plan import Algorithm, Plan
from konv.runtime import execute

Grain = tuple[int, int, int]
TESTS = Path(__file__).resolve().parents[1]

# Every kind; each has more pixels and channels than two tiles of any plan.
KINDS = [
    "conv2d 3x5x13x17 o83 k3 p1",
    "conv2d 2x4x14x15 o70 k3x2 s2x3 p2:1x0:3",
    "conv2d 5x20x4x5 o35 k3 p1",  # small images, which units take together
    "tconv2d 4x20x3x4 o33 k3 s2 p1",
    "conv2d 5x20x4x5 o20 k3 p1 g20",
    "conv2d 2x3x15x16 o50 k3 p4 d4",
    "conv2d 2x6x15x16 o50 k3 p7 d7 g2",
    "conv2d 2x150x12x13 o150 k3 p1 g150",
    "conv2d 2x40x9x11 o80 k5 s2 p2 g40 f64",
    "conv2d 2x20x30x29 o20 k7 p3 g20",
    "conv2d 2x24x26x31 o24 k8x9 p4x3 g24",
    "conv2d 2x20x130x137 o20 k13 p6 g20",
    "conv2d 2x3x37x59 o20 k6x7 p3",
    "conv2d 2x9x12x10 o83 k3 p2x1 f64",
    "conv2d 2x5x12x10 o40 k3 p2 reflect",
    "conv2d 2x35x22x37 o83 k3 p1",
    "conv2d 2x16x29x41 o40 k3 p2x3 d2x3",
    "conv2d 2x40x21x22 o34 k5 p2 g2",
    "conv2d 2x17x21x22 o20 k3 p2:0x1:2 reflect",
    "tconv2d 2x20x25x19 o33 k3 p1",
    "conv1d 3x20x203 o45 k3 p1",
    "conv2d 2x20x21x37 o3 k3x5 p1x3 d1x2",
    "tconv2d 2x40x13x17 o2 k5x4 s3x2 p1",
    "tconv1d 2x40x203 o1 k16 s8",
    "conv2d 2x32x19x29 o32 k3 p1 g8",
    "conv2d 2x20x33x38 o33 k3 s2 p1",
    "conv2d 2x20x33x38 o33 k5 s2 p2",
    "tconv2d 2x20x17x19 o33 k4 s2 p1",
    "tconv2d 2x5x9x10 o83 k4 s2 p1",
    "tconv2d 2x6x8x7 o40 k3 s2x3 p1x0 r1x2 d2x1 g2",
    "tconv2d 2x70x8x7 o70 k4 s2 p1 g70",
    "tconv2d 2x40x11x23 o40 k3 s2 p1 r1x0 g40",
    "tconv2d 2x20x13x14 o9 k16x32 s8x16 p4x8",
    "conv2d 2x20x19x23 o150 k1",
    "conv1d 3x7x301 o45 k9 s2 p8:0",
    "conv1d 3x20x403 o35 k9 p4",
    "conv2d 2x36x19x150 o34 k5x7 p2x3 g2",
    "tconv1d 3x7x101 o45 k9 s4 p3",
    "conv3d 2x12x5x6x9 o80 k1 g2",
    "conv3d 2x3x7x6x9 o40 k3 p1",
    "conv3d 2x16x5x12x13 o20 k3 p1",
    "conv3d 2x16x12x5x13 o20 k3x1x1 p1x0x0",
    "tconv3d 2x3x4x5x4 o20 k3 s2 p1 r1",
]
every_kind = pytest.mark.parametrize("line", KINDS)
every_layout = pytest.mark.parametrize(
    "forms", ["", "x=last out=last"], ids=["contiguous", "channels-last"]
)


def kinds(line: str) -> Iterator[tuple[Case, Algorithm]]:
    """The case with each algorithm that takes it."""
    case, target = Case.parse(line), llvm.detect()
    layouts = case.x != "last", case.out != "last"
    for algorithm in ALGORITHMS:
        refused = algorithm.why_not(case.conv, target)
        if refused is None and algorithm.plans(case.conv, target, *layouts):
            yield case, algorithm


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: str(a.name))
def test_every_algorithm_is_held_to_it(algorithm: Algorithm) -> None:
    """Those with many small blocks, too: more than one unit and thread, in either memory format."""
    target, several = llvm.detect(), 0
    for line in KINDS:
        conv = Conv.parse(line)
        if algorithm.why_not(conv, target) is None:
            for forms in ("", "x=last out=last"):
                with pinned(algorithm), threads(3), small_units(20, 4), recording() as jobs:
                    result(Case.parse(f"{line} / {forms}"))
                several += any(units(job) > 3 and job.threads == 3 for job in jobs)
    assert several >= 2, f"{algorithm.name} is not cut up"


def result(
    case: Case, x: Any = None, w: Any = None, b: Any = None, conv: Conv | None = None
) -> Array:
    """What the case gives, with other arrays or for another problem if they are said."""
    own = case.arrays()
    chosen = [mine if other is None else other for mine, other in zip(own, (x, w, b), strict=True)]
    call = replace(case, conv=conv) if conv else case
    out = call.output()
    y = call.function(*chosen, **call.arguments, **({} if out is None else {"out": out}))
    return call.canonical(y)


def same(a: Array, b: Array) -> bool:
    """Bit for bit; one NaN is as good as another."""
    bits = np.where(np.isnan(a), 0, a).tobytes() == np.where(np.isnan(b), 0, b).tobytes()
    return a.shape == b.shape and bits and np.array_equal(np.isnan(a), np.isnan(b))


@every_layout
@every_kind
def test_threads_and_units(line: str, forms: str) -> None:
    """One thread, two, three and five; units of one tile or of many. Uneven as well."""
    for case, algorithm in kinds(f"{line} / bias=contiguous {forms}"):
        with pinned(algorithm):
            with threads(1):
                once = result(case)
            for count in (2, 3, 5):
                for pixels, fewest in ((1, 1), (13, 2), (60, 20), (100_000, 1)):
                    with threads(count), small_units(pixels, fewest):
                        assert same(once, result(case)), (
                            f"{case}: {count} threads, units of {pixels} pixels"
                        )


@every_layout
@every_kind
def test_second_level_cache(line: str, forms: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a unit holds is a matter of speed: the size of the cache that it was cut for changes
    no bit.
    """
    real = llvm.detect()
    for case, algorithm in kinds(f"{line} / bias=contiguous {forms}"):
        with pinned(algorithm):
            once = result(case)
            for size in (1, 16 * 1024, 2**40):
                monkeypatch.setattr(llvm, "detect", lambda size=size: replace(real, l2=size))
                forget()
                assert same(once, result(case)), f"{case}: {size} bytes of cache"
            monkeypatch.undo()


@every_layout
@every_kind
def test_batch(line: str, forms: str) -> None:
    """An image gives the same alone, with others, and in another place among them."""
    for case, algorithm in kinds(f"{line} / bias=contiguous {forms}"):
        with pinned(algorithm), threads(3):
            x, once = case.arrays()[0], result(case)
            for first in range(case.conv.n):
                for last in range(first + 1, case.conv.n + 1):
                    part = x[first:last]
                    got = result(case, part, conv=case.conv.with_batch(last - first))
                    assert same(once[first:last], got), f"{case}: images {first} to {last}"


@every_layout
@every_kind
def test_crops(line: str, forms: str) -> None:
    """A crop whose origin is a multiple of the stride and the plan's alignment gives the crop of
    the whole, away from its own border.
    """
    for case, algorithm in kinds(f"{line} / bias=contiguous {forms}"):
        conv = case.conv
        if conv.mode != "zeros":
            continue
        with pinned(algorithm), threads(3), small_units(20, 4):
            x, once = case.arrays()[0], result(case)
            dice, compared, plan = Dice(len(line)), 0, plans[conv]
            aligned, chosen = (
                plan.alignment,
                patch.object(execute, "choose", lambda *_, plan=plan: plan),
            )
            for number in range(60):
                if number >= 12 and compared >= 10:
                    break
                steps = [a.stride * aligned for a in conv.axes]
                origin = [
                    dice.number(0, a.size // 2 // step) * step
                    for a, step in zip(conv.axes, steps, strict=True)
                ]
                sizes = [
                    dice.number(a.size // 2, a.size - o)
                    for a, o in zip(conv.axes, origin, strict=True)
                ]
                window = tuple(slice(o, o + n) for o, n in zip(origin, sizes, strict=True))
                small = conv.with_size(*sizes)
                with chosen:  # as choosing does, which sees both at one size
                    got = result(case, np.array(x[..., *window], order="K"), conv=small)
                parts = zip(conv.axes, small.axes, origin, strict=True)
                grains = _grains(plan, conv)
                inner, outer = zip(
                    *(_interior(*part, *g) for part, g in zip(parts, grains, strict=True)),
                    strict=True,
                )
                alike = same(once[..., *np.ix_(*outer)], got[..., *np.ix_(*inner)])
                assert alike, f"{case}: {sizes} from {origin}"
                compared += prod(map(len, inner))
            assert compared >= 10


def _grains(plan: Plan, conv: Conv) -> list[Grain]:
    """Outputs of a tile on each axis, how far apart they lie, and how many of the first tile's lie
    before the first output; 1, 1 and 0 where outputs stand alone.
    """
    if plan.algorithm == "fourier":
        return [(outputs, 1, 0) for outputs in outputs_of(conv, plan)]
    if plan.algorithm == "spectra":
        return [*[(1, 1, 0)] * (conv.dims - 2), *((each, 1, 0) for each in squares(plan))]
    if plan.algorithm == "spectrum":
        return [*[(1, 1, 0)] * (conv.dims - 1), (plan.alignment, 1, 0)]
    if plan.algorithm == "upright":
        return [(plan.alignment, 1, 0), (1, 1, 0)]
    if plan.algorithm == "cells":
        pairs = zip(transforms(plan), conv.axes, strict=True)
        return [(t.outputs * axis.up, 1, shift_of(axis, True)) for t, axis in pairs]
    if plan.algorithm != "winograd":
        return [(1, 1, 0)] * conv.dims
    pairs = zip(transforms(plan), three(conv)[1:], strict=True)
    grains = [(1, 1, 0), *((t.outputs, axis.dilation, 0) for t, axis in pairs)]
    return [grains[i] for i in order(conv)][-conv.dims :]


def _interior(
    whole: Axis, part: Axis, origin: int, m: int, apart: int, before: int
) -> tuple[list[int], list[int]]:
    """Outputs of the part that read pixels of the part where the whole reads pixels, they and all
    of their tile; and where they are in the whole.
    """
    shift = origin * whole.up // whole.stride
    good = {
        o
        for o in range(part.out)
        if 0 <= o + shift < whole.out
        and all(_reads_alike(whole, part, o, k, origin, shift) for k in range(part.kernel))
    }

    def tile(o: int) -> range:
        first = (o + before) // (m * apart) * m * apart + o % apart - before
        return range(first, first + m * apart, apart)

    def alike(t: int) -> bool:
        """Of a tile that an end cuts, what is none here is none of the whole, at the same end."""
        return t in good or (
            not 0 <= t < part.out and not 0 <= t + shift < whole.out and (t < 0) is (t + shift < 0)
        )

    found = [o for o in sorted(good) if all(map(alike, tile(o)))]
    return found, [o + shift for o in found]


def _reads_alike(whole: Axis, part: Axis, o: int, k: int, origin: int, shift: int) -> bool:
    here, there = part.source(o, k), whole.source(o + shift, k)
    return (here is None) == (there is None) and (here is None or here + origin == there)


@every_layout
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("weights", ["finite", "infinite"])
def test_padding_here_or_there(mode: Any, weights: str, forms: str) -> None:
    """Padding done by konv gives the bits of padding done by hand: what is left out of zeros
    changes none.
    """
    names = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    for line in KINDS:
        conv = Conv.parse(line)
        if conv.transposed or any(a.dilation > 4 for a in conv.axes):
            continue
        conv = replace(conv, mode=mode)
        for case, algorithm in kinds(f"{conv} / bias=contiguous {forms}"):
            x, w, b = case.arrays()
            if weights == "infinite":
                w.reshape(-1)[::7], w.reshape(-1)[3::11] = np.inf, -np.inf
            sides = [a.overhang() if mode != "zeros" else (a.lo, a.hi) for a in conv.axes]
            by_hand = np.pad(x, [(0, 0), (0, 0), *sides], mode=names[mode])  # type: ignore[call-overload]
            by_hand = _last(by_hand) if case.x == "last" else np.ascontiguousarray(by_hand)
            axes = zip(conv.axes, by_hand.shape[2:], strict=True)
            bare = replace(
                conv, axes=tuple(replace(a, size=n, lo=0, hi=0) for a, n in axes), mode="zeros"
            )
            with pinned(algorithm), threads(2), small_units(20, 4):
                assert same(result(case, by_hand, w, b, bare), result(case, x, w, b)), str(case)


def _last(a: Array) -> Array:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


@every_layout
@every_kind
def test_nan_stays_in_its_receptive_field(line: str, forms: str) -> None:
    """A pixel that is NaN or infinite makes those outputs so that it belongs to, and changes no
    other bit; of an algorithm on tiles, none of another tile.
    """
    for case, algorithm in kinds(f"{line} / {forms}"):
        conv = case.conv
        with pinned(algorithm), threads(3), small_units(20, 4):
            x, w, _ = case.arrays()
            w[w == 0] = 1
            once, dice = result(case, x, w), Dice(len(line))
            for value in (np.nan, np.inf, np.nan, -np.inf):
                broken = x.copy(order="K")
                at = tuple(dice.number(0, n - 1) for n in x.shape)
                broken[at] = value
                field = _field(conv, at)
                spread = _spread(field, _grains(plans[conv], conv))
                got = result(case, broken, w)
                assert not np.isfinite(got[field]).any(), f"{case}: {value} at {at} is lost"
                assert same(np.where(spread, 0, once), np.where(spread, 0, got)), (
                    f"{case}: {value} at {at} spreads"
                )


@lru_cache(maxsize=8)  # the places in one layer are the same for all its algorithms
def _field(conv: Conv, at: tuple[int, ...]) -> Array:
    """The outputs that read the number of the input at a place."""
    one = np.zeros(conv.in_shape)
    one[at] = 1
    return expected(conv, one, np.ones(conv.weight_shape)) > 0


def _spread(field: Array, grains: list[Grain]) -> Array:
    """All outputs of the tiles that have some in the field. A tile of m reads kernel - 1 further
    than m, so a pixel that it reads is in the field of one of its outputs.
    """
    for axis, (m, apart, before) in enumerate(grains, start=2):
        numbers = np.arange(field.shape[axis])
        tiles = (numbers + before) // (m * apart) * apart + numbers % apart
        hit = np.zeros((*field.shape[:axis], tiles.max() + 1, *field.shape[axis + 1 :]), bool)
        np.logical_or.at(hit, (*[slice(None)] * axis, tiles), field)
        field = np.take(hit, tiles, axis)
    return field


@every_layout
@every_kind
def test_infinite_weights(line: str, forms: str) -> None:
    """As the definition has it: times a padding pixel they are NaN, and an inserted zero is not
    there at all. A transposed layer counts what lies beside its image as padding too, which the
    definition does not: there, and only there, konv may say NaN where the definition does not.
    An algorithm that is not exact leaves no output of its channel finite, of a transposed layer
    with a stride none of those at its steps, and all others as they are.
    """
    for case, algorithm in kinds(f"{line} / bias=contiguous {forms}"):
        x, w, b = case.arrays()
        for at in (0, w.size // 2, w.size - 1):
            broken = numbers(w)
            broken.reshape(-1)[at] = np.inf
            small = case.conv.with_batch(1)
            want = expected(small, x[:1], broken, b)
            with pinned(algorithm), threads(2), small_units(20, 4):
                got = result(case, x[:1], broken, b, small)
            if not algorithm.exact:
                lost = np.zeros(want.shape, bool)
                for first in product(*(range(axis.up) for axis in small.axes)):
                    steps = zip(first, small.axes, strict=True)
                    part = (..., *(slice(p, None, axis.up) for p, axis in steps))
                    finite = np.isfinite(want[part])
                    lost[part] = ~finite.all(axis=(0, *range(2, want.ndim)), keepdims=True)
                assert np.array_equal(np.isfinite(got), ~lost), f"{case}: weight {at} is infinite"
                continue
            if case.conv.transposed:
                reads = expected(small, np.ones(small.in_shape), np.ones(w.shape))
                border = np.isnan(got) & (
                    reads < reads.max(axis=(0, *range(2, got.ndim)), keepdims=True)
                )
                got, want = np.where(border, 0, got), np.where(border, 0, want)
            assert np.array_equal(np.isnan(want), np.isnan(got)), f"{case}: weight {at} is infinite"
            assert np.array_equal(np.isinf(want), np.isinf(got)), f"{case}: weight {at} is infinite"


def test_alignment_and_steps_in_memory() -> None:
    """Where an array lies, and how far apart its pixels are, decides nothing."""
    dice, compared, rng = Dice(5), 0, Random(5)
    for _ in range(150):
        case = replace(accepted(dice, llvm.detect(), large=False), torch=False, out="", by="")
        x = numbers(case.arrays()[0])
        with recording():
            forget()
            once, plan = result(case, x), plans[case.conv]
            for form in (
                "inside",
                "steps",
                "unaligned",
                "swapped",
                "readonly",
                "negative",
                "record",
                "permuted",
            ):
                forget()
                got = result(case, FORMS[form](x, rng))
                if plans[case.conv] == plan:  # another memory format may have another
                    assert same(once, got), f"{case}: x is {form}"
                    compared += 1
    assert compared > 600


SCRIPT = """
import hashlib, sys
for name in sys.argv[1].split(): __import__(name)
import numpy as np, konv
from konv.geometry import Axis, Conv
from konv.geometry.terms import Terms
from konv import kernels

for name, module in list(sys.modules.items()):  # as functional.check.small_units
    for number, small in {"PIXELS": 30, "FEWEST": 4, "ALONE": 0, "BOX": 7}.items():
        if name.startswith("konv.kernels.") and hasattr(module, number):
            setattr(module, number, small)
if int(sys.argv[2]): konv.set_num_threads(int(sys.argv[2]))

def digest():
    found, rng = hashlib.sha256(), np.random.default_rng(1)
    for line in sys.argv[3:]:
        conv = Conv.parse(line)
        shapes = conv.in_shape, conv.weight_shape, (conv.co,)
        x, w, b = (rng.standard_normal(s).astype(conv.dtype) for s in shapes)
        terms = [Terms.of(axis, conv.transposed) for axis in conv.axes]
        names = ("stride", "dilation", "output_padding")
        words = {name: tuple(getattr(t, name) for t in terms) for name in names}
        if not conv.transposed: del words["output_padding"]
        words["padding"] = tuple((t.lo, t.hi) for t in terms)
        function = getattr(konv, f"conv{'_transpose' * conv.transposed}{conv.dims}d")
        for a in (x, np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)):
            y = function(a, w, b, groups=conv.groups, padding_mode=conv.mode, **words)
            found.update(np.ascontiguousarray(y).tobytes())
    return found.hexdigest()
"""

INSIDE = """
import ctypes, glob, os, threading
folder = os.path.join(os.path.dirname(torch.__file__), "lib")
libgomp = ctypes.CDLL(glob.glob(os.path.join(folder, "libgomp*"))[0])
seen = []
@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def region(_):
    seen.append((threading.get_native_id(), libgomp.omp_in_parallel(), digest()))
libgomp.GOMP_parallel(region, None, 3, 0)
assert len({thread for thread, _, _ in seen}) == 3 and all(inside for _, inside, _ in seen), seen
assert len({found for _, _, found in seen}) == 1
print(seen[0][2])
"""


def run(modules: str, count: int, last: str = "print(digest())", **env: str) -> str:
    """The digest of all results in a process of its own."""
    command = [sys.executable, "-c", SCRIPT + last, modules, str(count), *KINDS]
    path = os.pathsep.join([str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path, **env},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def alone() -> str:
    return run("torch", 1)


@pytest.mark.parametrize(
    ("modules", "count", "env"),
    [
        ("torch", 3, {}),
        ("torch", 3, {"OMP_THREAD_LIMIT": "1"}),
        ("torch", 4, {"OMP_THREAD_LIMIT": "2"}),
        ("torch", 4, {"OMP_DYNAMIC": "true"}),
        ("torch", 0, {"OMP_NUM_THREADS": "2"}),
        ("", 0, {}),
        ("", 3, {}),
        ("", 3, {"OMP_THREAD_LIMIT": "1"}),
    ],
    ids=str,
)
def test_processes(modules: str, count: int, env: dict[str, str], alone: str) -> None:
    """OpenMP may give fewer threads than asked for, silently; without PyTorch they are konv's
    own.
    """
    assert run(modules, count, **env) == alone


def test_inside_a_parallel_region(alone: str) -> None:
    """Threads of somebody else's OpenMP region call konv, all at once."""
    assert run("torch", 3, INSIDE.replace("import ctypes", "import torch, ctypes")) == alone
