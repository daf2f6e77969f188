"""Random cases over the whole space, from hypothesis or from a plain random generator alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from random import Random
from typing import Any, Protocol, TypeVar

from functional.case import Case
from functional.forms import COMMON, FORMS, TENSORS
from hypothesis import strategies as st

from konv.errors import ProblemError
from konv.geometry import MODES, Conv
from konv.kernels import ALGORITHMS, by_name
from konv.plan import Algorithm, Plan
from konv.runtime.typical import typical
from konv.target import Target

T = TypeVar("T")
Shape = tuple[list[int], list[int], list[int]]  # kernel, stride and dilation
SHAPES = 8  # of transposed and depthwise layers, for each number of axes


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


def case(d: Draw, target: Target, large: bool, by: Algorithm | None = None) -> Case:
    """Draw a call; ProblemError if the numbers describe none.

    Half of the small ones and all large ones name the algorithm that computes them: one of those
    that take them. `large` ones have room for two of its blocks and a tail of all that it blocks.
    """
    dims, dtype = d.one((1, 2, 2, 2, 3)), d.one(("float32", "float32", "float64"))
    mine = (by or d.one(blocking(dtype, target)),) if large else ALGORITHMS
    if large and not two_blocks(mine[0], dtype, target):
        raise ProblemError(f"{mine[0].name} does not compute in {dtype}. Draw again.")
    transposed, mode = d.one((False, False, True)), d.one(("zeros",) * 5 + MODES)
    single, layout = d.number(0, 6) == 0, d.number(0, 4) == 0
    wide = d.one(two_blocks(mine[0], dtype, target)) if large else None
    ci, co, groups = wide.channels(d) if wide else _channels(d, dtype, target, transposed)
    if transposed or ci == groups:
        kernel, stride, dilation = d.one(_shapes(dims, large, transposed and not large))
    else:
        kernel, stride, dilation = _shape(d, dims, large)
    if dims == 2 and ci == co == groups and not transposed and d.number(0, 1) == 0:
        kernel, stride, dilation = d.one(([28, 30], [29, 28])), [1, 1], [1, 1]
    extra = [0] * dims
    if transposed and mode == "zeros" and d.number(0, 1):
        extra = [d.number(0, max(s, a) - 1) for s, a in zip(stride, dilation, strict=True)]
    if wide:
        sizes = _large_sizes(d, wide.pixels, [1] * dims if transposed else stride)
    else:
        sizes = [d.number(1, {1: 20, 2: 8, 3: 5}[dims]) for _ in range(dims)]
    if max(kernel) > 5:
        sizes = [d.number(26, 36) for _ in range(dims)]
    written, padding = _padding(d, dims, transposed)
    n = 1 if single else d.one((1, 1, 1, 2, 2, 3, 0) if not large else (1, 1, 2))
    conv = Conv.of(
        (n, ci, *sizes), co, kernel, stride, padding, dilation, groups,
        transposed=transposed, output_padding=extra, padding_mode=mode, dtype=dtype,
    )  # fmt: skip
    takers = [a.name for a in mine if a.why_not(conv, target) is None]
    named = takers and (large or d.number(0, 1))
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
        by=d.one(takers) if named else "",
    )  # fmt: skip


def _channels(d: Draw, dtype: str, target: Target, transposed: bool) -> tuple[int, int, int]:
    """In, out, groups. Few different pairs: kernels are specialised on them, and each takes long
    to compile; those of transposed layers on their taps too.
    """
    lanes = target.lanes(dtype)
    if d.number(0, 4) == 0:  # depthwise, one in five with two channels out a group
        groups = d.one((2, lanes + 1))
        return groups, groups * d.one((1, 1, 1, 1, 2)), groups
    groups = d.one((1, 1, 1, 2, 3))
    few = ((1, 1), (5, 3), (9, lanes + 1))
    ci, co = d.one(few if transposed else (*few, (3, 1), (2, lanes), (8, 3 * lanes - 1)))
    return groups * ci, groups * co, groups


@dataclass(frozen=True)
class Wide:
    """Channels that make two blocks and a tail for an algorithm, and the pixels of its tile."""

    ci: int
    co: int
    groups: int
    pixels: int

    def channels(self, d: Draw) -> tuple[int, int, int]:
        """In, out, groups: one in four of the ordinary ones in two groups."""
        if self.groups == 1 and d.number(0, 3) == 0:
            return 2 * self.ci, 2 * self.co, 2
        return self.ci, self.co, self.groups


@cache
def two_blocks(algorithm: Algorithm, dtype: str, target: Target) -> tuple[Wide, ...]:
    """The fewest channels for which an algorithm meets two blocks and a tail, of each of three
    sorts: a tail that fills no vector, one that is a channel short of a vector, one that fills a
    vector but not the block. Of few channels in, or else of many, or else of one a group: kernels
    take long to compile.
    """
    lanes, layouts = target.lanes(dtype), tuple(product((True, False), repeat=2))
    found = list[Wide]()
    sorts = ((5, 1), (3, lanes - 1), (1, 0), (20, 1), (20, lanes - 1), (0, 1), (0, lanes - 1))
    for ci, rest in sorts:
        if ci in (20, 0) and any(wide.groups == 1 and wide.ci != ci for wide in found):
            continue
        for channels in range(2 * lanes + rest or lanes, 32 * lanes, lanes):
            groups = 1 if ci else channels
            conv = Conv.of((1, ci or groups, 99, 99), channels, 3, groups=groups, dtype=dtype)
            if algorithm.why_not(conv, target) is not None:
                break
            if tiled_anyhow(conv, algorithm, target):
                plans = [p for pair in layouts for p in algorithm.plans(conv, target, *pair)[:1]]
                pixels = max(algorithm.blocks(conv, plan, target).pixels[1] for plan in plans)
                found.append(Wide(conv.ci, channels, groups, pixels))
                break
    return tuple(found)


def blocking(dtype: str, target: Target) -> list[Algorithm]:
    """The algorithms for which large problems are drawn."""
    return [algorithm for algorithm in ALGORITHMS if two_blocks(algorithm, dtype, target)]


def _large_sizes(d: Draw, tile: int, steps: list[int]) -> list[int]:
    """Of an image with room for two tiles of so many pixels and a tail, on the last two axes."""
    dims = len(steps)
    least, most = {1: (20, 40), 2: (5, 9), 3: (3, 5)}[dims]
    grown = max(1.0, (tile / 10) ** (1 / min(dims, 2)))
    return [
        step * round(d.number(least, most) * (grown if axis >= dims - 2 else 1))
        for axis, step in enumerate(steps)
    ]


def _shape(d: Draw, dims: int, large: bool) -> Shape:
    """Kernel, stride and dilation."""
    kernel = [d.number(1, 3 if large or dims == 3 else 5) for _ in range(dims)]
    return kernel, _steps(d, dims, 3), _steps(d, dims, 3)


@cache
def _shapes(dims: int, large: bool, upsampling: bool) -> tuple[Shape, ...]:
    """Those of transposed and of depthwise layers, most of whose kernels are specialised on them:
    SHAPES, drawn like any other, half of them as upsampling layers have them if so wanted.

    All that is not in the kernel - sizes, padding, modes, forms of arrays - differs from case to
    case. Drawn freely they are 1,350 kernels in 10,000 cases, which take 0.4 s each; a case takes
    8 ms.
    """
    d = Dice(dims)
    found = [
        _upsampling(d, dims) if upsampling and number % 2 else _shape(d, dims, large)
        for number in range(SHAPES)
    ]
    return tuple(sorted(found, key=lambda shape: [max(numbers) for numbers in shape]))


def _steps(d: Draw, dims: int, most: int) -> list[int]:
    """Stride or dilation: mostly 1, else the same on all axes, else any."""
    kind = d.number(0, 3)
    if kind < 2:
        return [1] * dims
    return [d.number(1, most)] * dims if kind == 2 else [d.number(1, most) for _ in range(dims)]


def _upsampling(d: Draw, dims: int) -> Shape:
    """Kernel, stride and dilation as upsampling layers have them, alike on all axes. Few different
    ones, as for channels.
    """
    most = {1: 8, 2: 4, 3: 2}[dims]
    kernel, stride = d.one(((most, most), (most, most), (4, 2), (3, 2), (2, 3)))
    return [kernel] * dims, [stride] * dims, [1] * dims


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


def accepted(d: Draw, target: Target, large: bool, by: Algorithm | None = None) -> Case:
    """The next case that is a convolution, and if it is to be large one that is so in whatever
    layout, for the algorithm that it names: `by`, or any.
    """
    # Kept until it takes one, or those that take few would be reached too seldom.
    by = by or (d.one(blocking("float32", target)) if large else None)
    while True:
        try:
            drawn = case(d, target, large, by)
        except ProblemError:
            continue
        if not large or (drawn.by and tiled_anyhow(drawn.conv, by_name(drawn.by), target)):
            return drawn


def tiled_anyhow(conv: Conv, algorithm: Algorithm, target: Target) -> bool:
    """Whether `tiled` holds for the algorithm's first plans for all four pairs of layouts; which is
    the first is seen at a typical size, as choosing does.
    """
    layouts, layer = product((True, False), repeat=2), typical(conv)
    plans = [plan for pair in layouts for plan in algorithm.plans(layer, target, *pair)[:1]]
    return bool(plans) and all(tiled(conv, plan, target) for plan in plans)


def tiled(conv: Conv, plan: Plan, target: Target) -> bool:
    """Whether a plan meets two full blocks and a tail of all that its kernel blocks."""
    blocks = by_name(plan.algorithm).blocks(conv, plan, target)
    pairs = (blocks.pixels, blocks.co, blocks.groups)
    return all(tile == 1 or (count > 2 * tile and count % tile) for count, tile in pairs)
