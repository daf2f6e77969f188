"""What a call decides, and how often: kernels are compiled, weights packed once, and it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from functional.case import Case
from functional.check import check, forget, plans, recording
from functional.forms import FORMS, numbers, tensor

import konv
from konv import arrays, dispatch, log
from konv.geometry import Conv
from konv.plan import Plan
from konv.runtime import code, weights

SOURCE = Path(log.__file__).parents[1]
LAYERS = [
    "conv2d 1x3x17x19 o20 k3 p1",
    "conv2d 1x8x17x19 o40 k3 s2 p1",
    "conv2d 1x6x17x19 o12 k3 p2 d2 g2",
    "conv2d 1x40x17x19 o40 k3 p1 g40",
    "conv2d 1x40x17x19 o33 k1",
    "conv2d 1x5x17x19 o9 k3x5 p1 f64",
    "tconv2d 1x8x9x10 o20 k4 s2 p1",
    "tconv2d 1x40x9x10 o40 k3 s2 p1 r1 g40",
    "conv1d 1x6x90 o20 k9 p4",
    "conv3d 1x3x6x7x8 o20 k3 p1",
]
every_layer = pytest.mark.parametrize("line", LAYERS)
SIZES = [(1, 1, 1), (3, 2, 5), (5, 8, 4), (11, 7, 13), (16, 16, 16), (31, 5, 33), (2, 64, 3)]


def sized(conv: Conv) -> Iterator[Conv]:
    """The layer at other batches and sizes, those too small for it left out."""
    for i, size in enumerate(SIZES):
        try:
            yield conv.with_size(*size[-conv.dims :]).with_batch(i % 3)
        except konv.ProblemError:
            continue
    big = ([400], [40, 70], [9, 12, 14])[conv.dims - 1]
    yield conv.with_size(*big).with_batch(2)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is compiled or loaded from here on, as in a new process."""
    real, seen = code.compiled, list[str]()
    monkeypatch.setattr(code, "_kernels", {})
    forget()

    def remember(what: str, *rest: Any) -> Any:
        seen.append(what)
        return real(what, *rest)

    monkeypatch.setattr(code, "compiled", remember)
    return seen


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[Conv]:
    """The layers whose weights are packed from here on."""
    real, seen = weights.pack, list[Conv]()

    def remember(conv: Conv, *rest: Any, **more: Any) -> Any:
        seen.append(conv)
        return real(conv, *rest, **more)

    monkeypatch.setattr(weights, "pack", remember)
    return seen


@every_layer
@pytest.mark.parametrize("words", ["", "bias=contiguous torch"])
def test_a_new_image_size_compiles_nothing(line: str, words: str, compiled: list[str]) -> None:
    """Nor does a new batch, or another number of threads; and every one of them is right."""
    case = Case.parse(f"{line} / {words}")
    check(case)
    assert sum(what.startswith("Plan") for what in compiled) == 1
    compiled.clear()
    sizes = 0
    before = konv.get_num_threads()
    try:
        for i, conv in enumerate(sized(case.conv)):
            konv.set_num_threads(1 + i % 3)
            check(f"{conv} / {words}")
            sizes += 1
    finally:
        konv.set_num_threads(before)
    assert sizes >= 3
    # A layer has one plan each for tiny, small, middling and large images.
    assert sum(what.startswith("Plan") for what in compiled) <= 2
    compiled.clear()
    check(case)
    assert not compiled


def test_another_layer_of_the_kind_compiles_nothing(compiled: list[str]) -> None:
    """Padding, stride, dilation, taps and more channels are tables, not code: a network needs few
    kernels. What the last block of channels leaves over is another kernel; so is Winograd's, which
    serves any padding and number of channels in.
    """
    with konv.precision("exact"):
        check("conv2d 1x64x9x9 o64 k3 p1 /")
        assert sum(what.startswith("Plan") for what in compiled) == 1
        compiled.clear()
        for line in ("1x64x9x9 o64 k5 p2", "1x128x9x8 o64 k3 s2 p1", "1x64x9x9 o64 k1x3 p0x3 d1x3"):
            check(f"conv2d {line} /")
        assert not compiled
    check("conv2d 1x64x9x9 o64 k3 p1 /")
    compiled.clear()
    for line in ("1x64x9x9 o64 k3 p1:2x0", "1x128x9x13 o64 k3", "1x64x9x13 o64 k3 p1 circular"):
        check(f"conv2d {line} /")
    assert not compiled


@every_layer
@pytest.mark.parametrize(
    ("x", "out"), [("contiguous", "contiguous"), ("last", "last"), ("contiguous", "last")]
)
def test_a_layer_has_three_plans_at_most(line: str, x: str, out: str) -> None:
    """Over all sizes and batches, for one pair of memory formats; size 1 may look like another."""
    forget()
    used: set[Plan] = set()
    with recording():
        for conv in sized(Conv.parse(line)):
            plans.clear()
            check(f"{conv} / x={x} out={out}")
            used |= set(plans.values())
    pairs = [(plan.packed, plan.blocked) for plan in used]
    assert pairs
    assert all(pairs.count(pair) <= 3 for pair in pairs), used


@every_layer
def test_weights_are_packed_once(line: str, packed: list[Conv]) -> None:
    """For all calls with them at all sizes, until they change."""
    forget()
    case = Case.parse(line + " /")
    x, w, _ = case.arrays()
    call, options = case.function, case.arguments
    for conv in sized(case.conv):
        call(np.ones(conv.in_shape, conv.dtype), w, **options)
    assert len(packed) <= 3
    each = 0 if any(layer.rows for layer in dispatch._layers.values()) else 1  # read as it lies
    for again in range(3):
        packed.clear()
        w *= -2
        first, second = call(x, w, **options), call(x, w, **options)
        assert np.array_equal(first, second)
        assert len(packed) == each, again
    packed.clear()
    call(x, w, np.zeros(case.conv.co, case.conv.dtype), **options)
    assert len(packed) == each


@every_layer
@pytest.mark.parametrize(("kind", "bias"), [("array", True), ("tensor", False)])
def test_prepare_equals_the_function(
    line: str, kind: str, bias: bool, packed: list[Conv], compiled: list[str]
) -> None:
    """To the bit, at any batch and size, in both memory formats; packed once for each plan."""
    case = Case.parse(
        f"{line} / bias=contiguous torch" if kind == "tensor" else f"{line} / bias=last"
    )
    _, w, b = case.arrays()
    given = b if bias else None
    layer = konv.prepare(case.conv.with_size(*[50] * case.conv.dims), w, given)
    call, options = case.function, case.arguments
    rng = np.random.default_rng(0)
    packings = 0
    for conv in [case.conv, *sized(case.conv)]:
        whole = rng.standard_normal(conv.in_shape).astype(conv.dtype)
        for form in ("contiguous", "last", "steps"):
            x: Any = FORMS[form](whole, Random(1))
            x = tensor(x) if kind == "tensor" else x
            packed.clear()
            got = layer(x)
            packings += len(packed)
            expected = call(x, w, given, **options)
            assert type(got) is type(expected)
            assert np.array_equal(numbers(got), numbers(expected))
            if kind == "tensor" and case.conv.dims > 1:
                assert got.stride() == expected.stride()
            elif kind == "array":
                assert got.strides == expected.strides
            if conv.n:
                single = layer(x[0])
                # Without a batch axis an image may be taken to lie in another format, which
                # another kernel may compute: then the bits are its own.
                alone, there = numbers(single), numbers(expected)[0]
                assert np.allclose(alone, there, rtol=1e-4, atol=1e-4)
                assert form != "contiguous" or np.array_equal(alone, there)
                out = call(x, w, given, **options)
                out *= 0
                assert layer(x, out=out) is out
                assert np.array_equal(numbers(out), numbers(expected))
    assert 1 <= packings <= 8  # for tiny, small, middling and large images, in two formats


def test_prepare_keeps_its_own_weights() -> None:
    """What happens to the arrays afterwards does not reach the layer."""
    case = Case.parse("conv2d 2x5x9x8 o20 k3 p1 / bias=contiguous")
    x, w, b = case.arrays()
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    layer = konv.prepare(case.conv, w, b)
    # Each format has its own expected result: another algorithm may compute it.
    expected, expected_last = (konv.conv2d(form, w, b, padding=1) for form in (x, last))
    w[:], b[:] = 0, 0
    assert np.array_equal(layer(x), expected)
    assert np.array_equal(layer(last), expected_last), "a format that is new after the change"


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_prepare_with_a_layout(dims: int) -> None:
    """Channels last as the user sees them, with and without a batch."""
    conv = Conv.of((2, 5, *[9] * dims), 7, 3, padding=1)
    rng = np.random.default_rng(0)
    w = rng.standard_normal(conv.weight_shape).astype("float32")
    layout = ("NWC", "NHWC", "NDHWC")[dims - 1]
    layer, call = konv.prepare(conv, w, layout=layout), getattr(konv, f"conv{dims}d")
    for n, size in ((2, 9), (1, 4), (3, 17)):
        x = rng.standard_normal((n, *[size] * dims, 5)).astype("float32")
        y = layer(x)
        assert np.array_equal(y, call(x, w, padding=1, layout=layout))
        assert np.array_equal(y[0], layer(x[0]))
        assert np.array_equal(np.moveaxis(y, -1, 1), call(np.moveaxis(x, -1, 1), w, padding=1))


@pytest.mark.parametrize(
    ("x", "error", "text"),
    [
        (np.ones((1, 4, 9, 9), "float32"), konv.ProblemError, "x has 4 channels of float32"),
        (np.ones((1, 3, 9, 9)), konv.ProblemError, "x has 3 channels of float64"),
        (np.ones((1, 3, 2, 2), "float32"), konv.ProblemError, "kernel"),
        (np.ones((3, 3), "float32"), konv.ProblemError, "x has 2 axes"),
        (np.ones((1, 3, 9, 9), "int32"), konv.UnsupportedError, "x is int32"),
        ([[1.0]], TypeError, "x is a list"),
    ],
    ids=["channels", "dtype", "small", "axes", "integers", "list"],
)
def test_prepare_refuses_what_does_not_fit(x: Any, error: type[Exception], text: str) -> None:
    layer = konv.prepare(Conv.of((1, 3, 9, 9), 4, 3), np.ones((4, 3, 3, 3), "float32"))
    for _ in range(2):
        with pytest.raises(error, match=text):
            layer(x)
    assert layer(np.ones((1, 3, 3, 3), "float32")).shape == (1, 4, 1, 1)


PROGRAM = """
import numpy as np, konv
w, b = np.ones((24, 3, 3, 3), "float32"), np.ones(24, "float32")
for size in (9, 9, 8):
    konv.conv2d(np.ones((1, 3, size, size), "float32"), w, b, padding=1)
w *= 2
konv.conv2d(np.ones((1, 3, 9, 9), "float32"), w, b, padding=1)
konv.prepare(konv.Conv.of((1, 3, 11, 11), 24, 3), w)(np.ones((1, 3, 11, 11), "float32"))
"""


def events(folder: Path, verbose: str) -> list[str]:
    environment = {"PYTHONPATH": str(SOURCE), "KONV_CACHE_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | environment | {"KONV_VERBOSE": verbose},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stdout
    return done.stderr.splitlines()


def test_what_happens_behind_a_call_is_logged(tmp_path: Path) -> None:
    """KONV_VERBOSE=1: plans, compiling (then, in the next process, loading) and packing."""
    folder = tmp_path / "cold"
    first, second = events(folder, "1"), events(folder, "1")
    for lines, made in ((first, "compile"), (second, "load")):
        assert all(line.startswith("konv: ") for line in lines)
        kinds = [line.split()[1] for line in lines]
        assert set(kinds) <= {"plan", "pack", made}
        code = [line for line in lines if line.split()[1] == made]
        assert all(re.search(r" \d[\d.]* ms$", line) for line in code), code
        assert sum("contiguous in" in line for line in code) == 1, code
        assert len(set(code)) == len(code) <= 4  # kernel, digest, threads, the way in
        chosen = [line for line in lines if line.split()[1] == "plan"]
        convs = [re.search(r"(conv2d .*?) (?:direct|planar)", line) for line in chosen]
        assert [m and m[1] for m in convs] == [
            "conv2d 1x3x9x9 o24 k3 p1", "conv2d 1x3x8x8 o24 k3 p1", "conv2d 1x3x11x11 o24 k3",
        ]  # fmt: skip
        assert all(re.search(r"threads=\d+ scratch=\d+", line) for line in chosen)
        packs = [line for line in lines if line.split()[1] == "pack"]
        assert len(packs) == 2, "once at first, once more when the weight had changed"
        assert all("conv2d 1x3x9x9 o24 k3 p1 bytes=" in line for line in packs)
    assert events(folder, "0") == []


def test_arrays_that_must_be_copied_are_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what cannot be read as it lies."""
    copies: list[str] = []
    for name in ("dense", "contiguous"):
        real = getattr(arrays.NumpyKind, name)

        def counted(self: Any, a: Any, real: Any = real, name: str = name) -> Any:
            copies.append(name)
            return real(self, a)

        monkeypatch.setattr(arrays.NumpyKind, name, counted)
    for form in ("contiguous", "last", "inside", "steps", "zero", "readonly", "permuted"):
        check(f"conv2d 2x5x9x8 o20 k3 p1 / x={form}")
        assert not copies, form
    for form in ("negative", "unaligned", "swapped", "record"):
        check(f"conv2d 2x5x9x8 o20 k3 p1 / x={form}")
        assert copies == ["dense"], form
        copies.clear()
