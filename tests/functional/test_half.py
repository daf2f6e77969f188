"""float16 and bfloat16: stored as such, summed in float32, rounded once."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from functional.case import Case
from functional.check import check, few_kernels, first_of, pinned, small_units, threads
from functional.draw import Dice, accepted
from functional.forms import numbers
from functional.test_epilogue import LINES
from functional.test_problems import LAYOUTS, PROBLEMS
from torch.nn import functional as nn

import konv
from konv import llvm, reference, rounding
from konv.errors import ProblemError
from konv.geometry import Conv
from konv.kernels import ALGORITHMS
from konv.plan import Algorithm, Epilogue

HALVES = (torch.float16, torch.bfloat16)
every_half = pytest.mark.parametrize("dtype", HALVES, ids=["float16", "bfloat16"])


@pytest.mark.parametrize("forms", LAYOUTS.values(), ids=str)
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: str(a.name))
def test_every_algorithm(algorithm: Algorithm, forms: dict[str, str]) -> None:
    """That takes half precision, in all four layouts and with any threads, has the same bits."""
    lines = [*map(Conv.parse, LINES), *PROBLEMS[::9]]
    halves = [replace(conv, dtype="float16") for conv in lines]
    taken = [c for c in halves if algorithm.why_not(c, llvm.detect()) is None]
    assert taken or algorithm.why_not(halves[0], llvm.detect())
    for conv in taken[:6]:
        conv = conv.with_size(*(min(a.size, 40) for a in conv.axes)) if conv.dims < 3 else conv
        case = Case(conv, bias="contiguous", **forms)
        with pinned(algorithm):
            with threads(1):
                once = numbers(check(case))
            with threads(3), small_units():
                assert np.array_equal(once, numbers(check(case)))


@pytest.mark.slow
def test_random() -> None:
    """Random problems in every form of array, NumPy's and PyTorch's, some with epilogues."""
    target, dice = llvm.detect(), Dice(41)

    def drawn(number: int) -> Case:
        drawn = accepted(dice, target, large=number % 3 == 0)
        conv = replace(drawn.conv, dtype="float16")
        drawn = replace(drawn, by="", conv=conv, whole=False)
        if number % 4 == 0:
            drawn = replace(drawn, activation=dice.one(("relu", "silu")), residual="last")
        return drawn

    with few_kernels(20):  # of an algorithm, or 150 cases would ask for 72
        for number in range(150):
            first_of(partial(drawn, number))


@every_half
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("line", LINES[:5])
def test_pytorch_agrees(line: str, last: bool, dtype: torch.dtype) -> None:
    """With float64 within the bound, and with PyTorch's own half precision within twice that and
    its roundings: without half-precision instructions it adds a transposed layer's taps in half.
    """
    conv = replace(Conv.parse(line), dtype=str(dtype).removeprefix("torch."))
    rng = torch.Generator().manual_seed(3)
    shapes = conv.in_shape, conv.weight_shape, (conv.co,), conv.out_shape
    x, w, b, r = (torch.randn(s, generator=rng).to(dtype) for s in shapes)
    if last:
        x = x.to(memory_format=torch.channels_last)
    rest: dict[str, Any] = {"padding": 1, "groups": conv.groups}
    if conv.transposed:
        rest |= {"stride": conv.axes[0].up, "output_padding": int(conv.axes[0].kernel == 3)}
    name = f"conv{'_transpose' * conv.transposed}{conv.dims}d"
    ours, theirs = getattr(konv, name), getattr(nn, name)
    y = ours(x, w, b, **rest)
    assert y.dtype is dtype
    assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    doubles = [a.double() for a in (x, w, b)]
    want = theirs(*doubles, **rest)
    bound = rounding.tolerance(conv, *(a.numpy() for a in doubles))
    right = want.numpy()
    assert (np.abs(y.double().numpy() - right) <= bound).all()
    other = theirs(x, w, b, **rest).double().numpy()
    size = theirs(*(a.abs() for a in doubles), **rest).numpy()
    roundings = prod(a.kernel for a in conv.axes) * torch.finfo(dtype).eps * conv.transposed
    assert (np.abs(y.double().numpy() - other) <= 2 * bound + roundings * size).all()
    for epilogue in (Epilogue("relu"), Epilogue("gelu", 0.0, True), Epilogue("", 0.0, True)):
        residual = r if epilogue.residual else None
        added = None if residual is None else r.double().numpy()
        y = ours(x, w, b, **rest, activation=epilogue.activation or None, residual=residual)
        finished = reference.finish(right, epilogue, added)
        most = rounding.finished_tolerance(bound, right, epilogue, added, conv.dtype)
        assert (np.abs(y.double().numpy() - finished) <= most).all()


@every_half
def test_one_rounding(dtype: torch.dtype) -> None:
    """Sums stay in float32 until they are stored: halfway cases are those of the exact sum."""
    one = torch.ones(1, dtype=dtype)
    half_step = torch.finfo(dtype).eps / 2
    x = torch.tensor([1, half_step, 1e-4, -1e-4, 3 * half_step, -half_step]).to(dtype)
    w = one.reshape(1, 1, 1).expand(1, 6, 1).contiguous()
    exact = x.double().sum()
    assert konv.conv1d(x.reshape(1, 6, 1), w).item() == exact.to(dtype).item()
    r = torch.full((1, 1, 1), 2 * half_step, dtype=dtype)
    got = konv.conv1d(x.reshape(1, 6, 1), w, residual=r)
    assert got.item() == (exact + 2 * half_step).to(dtype).item()


@every_half
def test_special_numbers(dtype: torch.dtype) -> None:
    """Too large becomes infinity, NaN stays, and denormals of float16 are numbers like others."""
    largest, tiny = torch.finfo(dtype).max, 2.0**-24 if dtype is torch.float16 else 2.0**-126
    x = torch.tensor([largest, torch.inf, -torch.inf, torch.nan, tiny, -3 * tiny]).to(dtype)
    w = torch.full((1, 1, 1), 2, dtype=dtype)
    for size in (6, 48):
        got = konv.conv1d(x.repeat(size // 6).reshape(1, 1, -1), w).flatten()[:6]
        want = [torch.inf, torch.inf, -torch.inf, torch.nan, 2 * tiny, -6 * tiny]
        assert np.array_equal(got.tolist(), want, equal_nan=True)


@every_half
def test_out_prepared_and_in_place(dtype: torch.dtype) -> None:
    """Every door takes them: out, prepare, a residual that is out; NumPy's float16 too."""
    conv = Conv.parse("conv2d 2x5x9x9 o18 k3 p1")
    conv = replace(conv, dtype=str(dtype).removeprefix("torch."))
    x, w, r = (torch.randn(s).to(dtype) for s in (conv.in_shape, conv.weight_shape, conv.out_shape))
    want = konv.conv2d(x, w, padding=1)
    out = torch.empty_like(want)
    assert konv.conv2d(x, w, padding=1, out=out) is out
    layer = konv.prepare(conv, w)
    assert torch.equal(out, want)
    assert torch.equal(layer(x), want)
    added = konv.conv2d(x, w, padding=1, residual=r)
    assert torch.equal(layer(x, r, r), added)
    if dtype is torch.float16:
        assert np.array_equal(konv.conv2d(x.numpy(), w.numpy(), padding=1), want.numpy())
        layer = konv.prepare(conv, w.numpy())
        assert np.array_equal(layer(x.numpy()), want.numpy())


def test_one_dtype_for_all() -> None:
    """Mixed precision is refused: which of the two the result should have is the user's to say."""
    x, w = np.ones((1, 4, 9, 9), "f2"), np.ones((6, 4, 3, 3), "f4")
    with pytest.raises(ProblemError, match="weight is float32 and x is float16; conv2d wants one"):
        konv.conv2d(x, w)
    with pytest.raises(ProblemError, match=r"residual is float32 .*is float16"):
        konv.conv2d(x, w.astype("f2"), residual=np.ones((1, 6, 7, 7), "f4"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("co", [1, 9, 16, 17, 33])
@pytest.mark.parametrize(
    ("size", "taps", "transposed"), [(1, 1, False), (3, 3, False), (6, 3, False), (1, 3, True)]
)
def test_nothing_is_written_behind(
    size: int, taps: int, transposed: bool, co: int, last: bool, dtype: torch.dtype
) -> None:
    """Where the last vector of outputs has one lane, too."""
    x = torch.randn(1, 9, size, size).to(dtype)
    w = torch.randn((9, co, taps, taps) if transposed else (co, 9, taps, taps)).to(dtype)
    side = size + (taps - 1) * (1 if transposed else -1)
    behind = torch.full((co * side * side + 8,), 7, dtype=dtype)
    out = behind[:-8].view((1, side, side, co) if last else (1, co, side, side))
    out = out.permute(0, 3, 1, 2) if last else out
    if last:
        x, w = (a.contiguous(memory_format=torch.channels_last) for a in (x, w))
    konv_, torch_ = (
        (konv.conv_transpose2d, torch.conv_transpose2d)
        if transposed
        else (konv.conv2d, torch.conv2d)
    )
    assert konv_(x, w, out=out) is out
    assert (behind[-8:] == 7).all()
    assert torch.allclose(out.float(), torch_(x.float(), w.float()), rtol=0.02, atol=0.2)
