"""plan=: the user says which algorithm computes a layer."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from functional.case import Case
from functional.check import compare, forget
from functional.test_invariance import KINDS

import konv
from konv import llvm, log
from konv.errors import ProblemError, UnsupportedError
from konv.geometry import Conv
from konv.kernels import ALGORITHMS, by_name
from konv.plan import Algorithm
from konv.runtime.choose import choose, pin

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: str(a.name))
LINES = [*KINDS, "tconv2d 1x3x9x8 o2 k16 s8 p4"]


def taken(algorithm: Algorithm) -> Case:
    """The first layer, in the first memory format, for which it has a kernel."""
    for line in LINES:
        for forms in ("", "x=last out=last"):
            case = Case.parse(f"{line} / bias=contiguous {forms}")
            layouts = case.x != "last", case.out != "last"
            if algorithm.why_not(case.conv, llvm.detect()) is None and algorithm.plans(
                case.conv, llvm.detect(), *layouts
            ):
                return case
    raise AssertionError(f"no layer for {algorithm.name}")


@every_algorithm
def test_it_is_computed_so(algorithm: Algorithm, capsys: pytest.CaptureFixture[str]) -> None:
    """By a function and by a prepared layer, remembered apart from others; and it is right."""
    case = taken(algorithm)
    x, w, b = case.arrays()
    forget()
    log.set_verbose(True)
    try:
        y = case.function(x, w, b, **case.arguments, plan=algorithm.name)
        again = konv.prepare(case.conv, w, b, plan=algorithm.name)(x)
        case.function(x, w, b, **case.arguments, plan="planar")
    finally:
        log.set_verbose(False)
    events = [line for line in capsys.readouterr().err.splitlines() if " plan " in line]
    used = [next(a.name for a in ALGORITHMS if f" {a.name} " in line) for line in events]
    once = algorithm.name == "planar"
    assert used == [algorithm.name] * 2 + ["planar"] * (not once)
    compare(case, x, w, b, y)
    assert np.array_equal(y, again)


def test_tensors_and_copies() -> None:
    """Tensors take it, and arrays that must be copied first."""
    x, w = np.ones((1, 4, 9, 9), "f4"), np.ones((6, 4, 3, 3), "f4")
    want = konv.conv2d(x, w, plan="direct")
    assert torch.equal(
        konv.conv2d(torch.from_numpy(x), torch.from_numpy(w), plan="direct"), torch.from_numpy(want)
    )
    assert np.array_equal(konv.conv2d(x[..., ::-1], w, plan="direct"), want)


def test_errors() -> None:
    """A name that is none, a layer that it does not take, a precision that forbids it: before
    anything is computed, and with the way out.
    """
    x, w = np.ones((1, 4, 9, 9), "f4"), np.ones((6, 4, 3, 3), "f4")
    conv = Conv.of(x.shape, 6, 3)
    for wrong in ("fastest", "", 3, ["direct"]):
        with pytest.raises(ProblemError, match=r"names no algorithm\. Use 'fourier', .*'direct'"):
            konv.conv2d(x, w, plan=wrong)  # type: ignore[arg-type]
    with pytest.raises(ProblemError, match="names no algorithm"):
        konv.prepare(conv, w, plan="fastest")
    out = np.full((1, 6, 7, 7), 3, "f4")
    why = by_name("depthwise").why_not(conv, llvm.detect())
    assert why is not None
    for call in (
        lambda: konv.conv2d(x, w, out=out, plan="depthwise"),
        lambda: konv.prepare(conv, w, plan="depthwise"),
    ):
        with pytest.raises(UnsupportedError) as caught:
            call()
        assert why in str(caught.value)
        assert "Leave plan out" in str(caught.value)
    assert (out == 3).all()


def test_exact_forbids_winograd() -> None:
    x, w = np.ones((1, 16, 20, 20), "f4"), np.ones((64, 16, 3, 3), "f4")
    layer = konv.prepare(Conv.of(x.shape, 64, 3), w, plan="winograd")
    once = layer(x)
    assert once.shape == (1, 64, 18, 18)
    with konv.precision("exact"):
        for call in (lambda: konv.conv2d(x, w, plan="winograd"), lambda: layer(x)):
            with pytest.raises(UnsupportedError, match='is not exact, and precision is "exact"'):
                call()
    assert np.array_equal(layer(x), once)


def test_what_is_chosen_can_be_pinned() -> None:
    """At every size, also where the algorithm would refuse that very size: the same plan."""
    target = llvm.detect()
    for line, size in product(LINES, (1, 2, 5, 7, 10, 11, 40)):
        try:
            conv = Conv.parse(line)
            conv = conv.with_size(*[size] * conv.dims)
        except ProblemError:
            continue
        for layouts in product((True, False), repeat=2):
            chosen = choose(conv, target, *layouts)
            assert pin(chosen.algorithm, conv, target, *layouts) == chosen
