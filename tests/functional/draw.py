"""Random cases over the whole space, from hypothesis or from a plain random generator alike."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product
from math import prod
from random import Random
from typing import Any, Protocol, TypeVar

from functional.case import Case
from functional.forms import COMMON, FORMS, TENSORS
from hypothesis import strategies as st

from konv.errors import ProblemError
from konv.geometry import MODES, Conv
from konv.plan import Plan
from konv.runtime.choose import choose
from konv.target import Target

T = TypeVar("T")


class Draw(Protocol):
    """Where choices come from."""

    def number(self, least: int, most: int) -> int: ...
    def one(self, choices: Sequence[T]) -> T: ...


class Dice:
    """Choices of a random generator."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def number(self, least: int, most: int) -> int:
        return self.random.randint(least, most)

    def one(self, choices: Sequence[T]) -> T:
        return self.random.choice(choices)


class Hypothesis:
    """Choices of hypothesis, which shrink."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw

    def number(self, least: int, most: int) -> int:
        return self.draw(st.integers(least, most))

    def one(self, choices: Sequence[T]) -> T:
        return self.draw(st.sampled_from(choices))


def case(d: Draw, target: Target, large: bool) -> Case:
    """Draw a call; ProblemError if the numbers describe none.

    `large` ones have room for two register tiles and a tail on every axis that kernels block.
    """
    dims, dtype = d.one((1, 2, 2, 2, 3)), d.one(("float32", "float32", "float64"))
    transposed, mode = d.one((False, False, True)), d.one(("zeros",) * 5 + MODES)
    single, layout = d.number(0, 6) == 0, d.number(0, 4) == 0
    ci, co, groups = _channels(d, dtype, target, large)
    kernel = [d.number(1, 3 if large or dims == 3 else 5) for _ in range(dims)]
    stride, dilation = _steps(d, dims, 3), _steps(d, dims, 3)
    if transposed and d.number(0, 1):
        few, (kernel, stride, dilation) = _upsampling(d, dims)
        if (
            large and few
        ):  # channels that leave lanes empty, and enough sub-pixels to fill two blocks
            ci, co, groups = 3, target.lanes(dtype) + 3, 1
    extra = [0] * dims
    if transposed and mode == "zeros" and d.number(0, 1):
        extra = [d.number(0, max(s, a) - 1) for s, a in zip(stride, dilation, strict=True)]
    if large:
        most = {1: (20, 40), 2: (5, 9), 3: (3, 5)}[dims]
        sizes = [d.number(*most) * (1 if transposed else s) for s in stride]
    else:
        sizes = [d.number(1, {1: 20, 2: 8, 3: 5}[dims]) for _ in range(dims)]
    written, padding = _padding(d, dims, transposed)
    n = 1 if single else d.one((1, 1, 1, 2, 2, 3, 0) if not large else (1, 1, 2))
    conv = Conv.of(
        (n, ci, *sizes), co, kernel, stride, padding, dilation, groups,
        transposed=transposed, output_padding=extra, padding_mode=mode, dtype=dtype,
    )  # fmt: skip
    torch = d.number(0, 4) == 0
    any_form = TENSORS if torch else tuple(FORMS)
    outputs = ("contiguous", "last", "inside", "steps") + (
        () if torch else ("negative", "swapped", "unaligned")
    )
    return Case(
        conv,
        x=d.one(COMMON if d.number(0, 2) else any_form),
        w=d.one(COMMON if d.number(0, 2) else any_form),
        bias=d.one(("", "contiguous", "contiguous", "steps", d.one(any_form))),
        out=d.one(outputs) if d.number(0, 6) == 0 else "",
        padding=written, layout=layout, torch=torch, single=single, whole=d.number(0, 1) == 0,
    )  # fmt: skip


def _channels(d: Draw, dtype: str, target: Target, large: bool) -> tuple[int, int, int]:
    """In, out, groups. Few different pairs: kernels are specialised on them, and each takes long
    to compile.
    """
    lanes = target.lanes(dtype)
    if d.number(0, 4) == 0:  # depthwise, one in five with two channels out a group
        groups = d.one(_two_blocks(dtype, target, True)[:2] if large else (2, lanes + 1))
        return groups, groups * d.one((1, 1, 1, 1, 2)), groups
    if large:
        groups = d.one((1, 1, 1, 2))
        ci, co = d.one(tuple(zip((5, 3, 1), _two_blocks(dtype, target, False), strict=True)))
    else:
        groups = d.one((1, 1, 1, 2, 3))
        ci, co = d.one(((1, 1), (3, 1), (5, 3), (2, lanes), (9, lanes + 1), (8, 3 * lanes - 1)))
    return groups * ci, groups * co, groups


@cache
def _two_blocks(dtype: str, target: Target, depthwise: bool) -> tuple[int, int, int]:
    """The fewest output channels that make two blocks and a tail, by each of three sorts: a tail
    that fills no
    vector, one that is a channel short of a vector, one that fills a vector but not the block.
    """
    lanes, fit = target.lanes(dtype), []
    for co in range(2 * lanes, 32 * lanes):
        ci, groups = (co, co) if depthwise else (3, 1)
        conv = Conv.of((1, ci, 40), co, 3, groups=groups, dtype=dtype)
        if tiled_anyhow(conv, target):
            fit.append(co)
    few, short, full = (next(co for co in fit if co % lanes == rest) for rest in (1, lanes - 1, 0))
    return few, short, full


def _steps(d: Draw, dims: int, most: int) -> list[int]:
    """Stride or dilation: mostly 1, else the same on all axes, else any."""
    kind = d.number(0, 3)
    if kind < 2:
        return [1] * dims
    return [d.number(1, most)] * dims if kind == 2 else [d.number(1, most) for _ in range(dims)]


def _upsampling(d: Draw, dims: int) -> tuple[bool, tuple[list[int], list[int], list[int]]]:
    """Kernel, stride and dilation as upsampling layers have them, alike on all axes; and whether
    they are such that sub-pixels should fill the lanes. Few different ones, as for channels.
    """
    most = {1: 8, 2: 4, 3: 2}[dims]
    few, kernel, stride = d.one(
        ((True, most, most), (True, most, most), (False, 4, 2), (False, 3, 2), (False, 2, 3))
    )
    return few, ([kernel] * dims, [stride] * dims, [1] * dims)


def _padding(d: Draw, dims: int, transposed: bool) -> tuple[str, Any]:
    """How the padding is written, and what it is."""
    written = d.one(
        ("int", "axis", "pairs", "valid")
        if transposed
        else ("int", "axis", "pairs", "same", "valid", "causal")
    )
    if written == "int":
        return written, d.number(0, 3)
    if written == "axis":
        return written, [d.number(0, 3) for _ in range(dims)]
    if written == "pairs":
        return written, [(d.number(0, 4), d.number(0, 4)) for _ in range(dims)]
    return written, written


def accepted(d: Draw, target: Target, large: bool) -> Case:
    """The next case that is a convolution, and if it is to be large one that is so in whatever
    layout.
    """
    while True:
        try:
            drawn = case(d, target, large)
        except ProblemError:
            continue
        if not large or tiled_anyhow(drawn.conv, target):
            return drawn


def tiled_anyhow(conv: Conv, target: Target) -> bool:
    """Whether `tiled` holds for the plans of all four pairs of layouts."""
    layouts = product((True, False), repeat=2)
    return all(tiled(conv, choose(conv, target, *pair), target) for pair in layouts)


def tiled(conv: Conv, plan: Plan, target: Target) -> bool:
    """Whether a plan meets two full register tiles and a tail on both axes that it blocks: pixels
    of the
    largest phase, and output channels of a group, or all of them where the channels of groups
    share vectors.
    """
    width = plan.vectors * target.lanes(plan.dtype)
    channels = conv.co if plan.algorithm == "depthwise" else conv.co // conv.groups
    pixels = prod(max(phase.count for phase in axis.phases()) for axis in conv.axes)
    if plan.algorithm == "subpixel":  # sub-pixels stand in the lanes with them, and leave no tail
        columns = channels * prod(axis.up for axis in conv.axes)
        return columns > 2 * width and pixels > 2 * plan.pixels and pixels % plan.pixels > 0
    return all(n > 2 * tile and n % tile for n, tile in ((channels, width), (pixels, plan.pixels)))
