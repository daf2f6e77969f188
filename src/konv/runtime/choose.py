"""Which plan for a layer: that of the algorithm whose own model says it is fastest, or the one that
`konv tune` has found faster on this machine.

Nothing is measured here, and choosing never looks at batch or thread count; of the image size it
knows only whether it is small, middling or large, of a dilated layer also about how many taps'
distances it is wide, if few. So a layer has three plans at most for a pair of layouts, a dilated
one a few more: a new size compiles nothing, and results do not depend on what else is computed.
Contiguous depthwise layers have more for broad and for narrow images, which give the same bits, and
so have those of one tap whose weights need not be packed (konv.kernels.panels.instead).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import replace
from math import ceil, floor, prod
from types import TracebackType
from typing import Literal

from konv import kernels
from konv.errors import ProblemError, UnsupportedError
from konv.geometry import Axis, Conv
from konv.kernels import direct, panels, planes
from konv.plan import Algorithm, Plan
from konv.runtime import tuned
from konv.target import Target

Precision = Literal["exact", "fast"]

# Outputs of a channel: of small images, at most of those, of middling ones, at most of those, of
# large images. What is best for a layer changes about there: below, it is mostly its weights, and
# tiles of pixels are not full. Of a transposed layer, the outputs from one input to the next count
# as one. Maps of 8 x 8 and 10 x 10 seen as 32 x 32 took tiles of 4 whose weights are twice as many
# as those of 2: 3x3 384@8 1.14 ms, not 0.68, 512@10 2.5, not 1.8; transposed 4x4 256->128@8 0.76,
# not 0.56 (Zen 3). Those in steps of two fill tiles at 8 x 8, but not at 7 x 7. Volumes of so many
# are not like a cube of 4: 512@2x7x7 would be computed without tiles.
SMALL, BETWEEN, MIDDLE, ABOVE, LARGE = 49, 60, 64, 100, 1024
CUBES = 3  # dimensions
# Outputs of an axis for each pixel from tap to tap, up to which the image counts as small: most
# taps meet padding, and tiles of interleaved axes would be mostly empty. With 1024 outputs in mind
# 2048->256@17 dilated by 12 was given such tiles, 403 ms instead of 48; 256@28 36.8 and 24.4, @40
# 4.4 and 7.0; 256@20 by 8 2.5 and 1.5, @23 2.5 and 2.5; 256@11 by 4 0.56 and 0.62 (Zen 3).
APART = 2.5
# Up to how many of these an image that is not small counts as having how many. Winograd's tiles lie
# on the interleaved axes, which have so many outputs: one tile of 3, one of 4, two of 3; then tiles
# of 4 need no more products than others, or hardly more. At 1024 outputs 256@65 dilated by 12 would
# be seen with 2 or 3, where it has 5 or 6: 22.9 ms on tiles of 4, 15.3 on those of 3 (Zen 3).
SPREADS = ((3.2, 2.8), (4.6, 3.9), (6.4, 5.5))
WIDE = 8.0  # what others have at least: two tiles of 4
GROWTHS = 40  # doublings: beyond any padding that the largest image could fill

_precision: ContextVar[Precision] = ContextVar("precision", default="fast")


class precision:  # noqa: N801 - called like a function, and a context manager
    """Choose how exact the kernels are: `"fast"` (the default) or `"exact"`.

    "exact" forbids algorithms whose error bound is larger than that of a plain sum of products;
    "fast" allows them. As a function it sets the mode from here on, as a context manager until the
    block ends; the mode belongs to the thread or task that set it.

    >>> with precision("exact"):
    ...     current_precision()
    'exact'
    """

    def __init__(self, mode: Precision) -> None:
        if mode not in ("exact", "fast"):
            raise ProblemError(f'precision={mode!r} is no precision. Use "exact" or "fast".')
        self._token = _precision.set(mode)

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _precision.reset(self._token)


def current_precision() -> Precision:
    """The precision in force here: "exact" or "fast"."""
    return _precision.get()


def choose(conv: Conv, target: Target, packed: bool, blocked: bool, reads: bool = False) -> Plan:
    """The plan for a layer whose input is contiguous (`packed`) or channels-last, its output
    likewise (`blocked`): the one found by tuning, else the one that its algorithm's model says is
    fastest.

    Contiguous means that the last spatial axis has stride 1, channels-last that channels have.
    `reads`: konv.kernels.panels could read the weight as it lies, where others would make sure at
    each call that it is still what they have packed.
    """
    layer = _typical(conv)
    plan = _tuned(layer, target, packed, blocked)
    return plan or _for_image(conv, _cheapest(layer, target, packed, blocked), target, reads)


def _for_image(conv: Conv, plan: Plan, target: Target, reads: bool = False) -> Plan:
    """The plan for an image of this size, among those that give the same bits."""
    if reads and plan.algorithm == direct.name:
        return panels.instead(conv, plan, target)
    return planes.for_image(conv, plan, target) if plan.algorithm == planes.name else plan


def choices(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """The plans of a layer over all image sizes: one, or some for small, middling, large, broad
    and narrow images or for a dilated layer of several widths.
    """
    sizes = (SMALL, MIDDLE) if conv.dims < CUBES else (SMALL,)
    layers = [_at_size(conv, size) for size in sizes]
    layers += [_large(conv, spread) for spread in _spreads(conv)]
    found = dict.fromkeys(_best(layer, target, packed, blocked) for layer in layers)
    if any(plan.algorithm == planes.name for plan in found):
        found |= dict.fromkeys(planes.of_other_images(layers[-1], target, packed, blocked))
    return tuple(found)


def modelled(conv: Conv, target: Target, packed: bool, blocked: bool) -> Plan:
    """The plan that the models say is fastest, whatever was found by tuning."""
    return _for_image(conv, _cheapest(_typical(conv), target, packed, blocked), target)


def offered(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """Every plan that may be chosen for a layer, in the precision in force: of each algorithm that
    takes it all that it considers, of which `choose` weighs the first.
    """
    layer = _typical(conv)
    return tuple(plan for _, plans in _offers(layer, target, packed, blocked) for plan in plans)


def found(conv: Conv, target: Target, packed: bool, blocked: bool) -> Plan | None:
    """The plan that tuning has found for a layer, None if it has found none or may not be used."""
    return _tuned(_typical(conv), target, packed, blocked)


def layer_text(conv: Conv, packed: bool, blocked: bool) -> str:
    """All that a choice depends on beside the target, in words: what findings of tuning are for."""
    return _text(_typical(conv), packed, blocked)


def pin(name: str, conv: Conv, target: Target, packed: bool, blocked: bool) -> Plan:
    """The plan of the algorithm of that name, however slow: the one that `choose` would weigh.
    Errors as `named`.
    """
    layer = _typical(conv)
    plans = named(name, conv, target).plans(layer, target, packed, blocked)
    if not plans:
        raise _not_computed(name, conv, "has no kernel for these memory layouts")
    return _for_image(conv, plans[0], target)


def named(name: str, conv: Conv, target: Target) -> Algorithm:
    """The algorithm of that name. ProblemError if there is none, UnsupportedError, which says why,
    if it does not take the layer, at its typical size, in the precision in force.
    """
    those = [algorithm for algorithm in kernels.ALGORITHMS if algorithm.name == name]
    if not those:
        names = ", ".join(repr(algorithm.name) for algorithm in kernels.ALGORITHMS)
        raise ProblemError(f"plan={name!r} names no algorithm. Use {names}, or leave it out.")
    refused = those[0].why_not(_typical(conv), target)
    if refused is None and not those[0].exact and current_precision() == "exact":
        refused = 'is not exact, and precision is "exact"'
    if refused is not None:
        raise _not_computed(name, conv, refused)
    return those[0]


def _not_computed(name: str, conv: Conv, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"plan={name!r} does not compute {conv}: {name} {why}. Leave plan out, or use 'direct', "
        f"which takes every layer."
    )


def _best(layer: Conv, target: Target, packed: bool, blocked: bool) -> Plan:
    plan = _tuned(layer, target, packed, blocked)
    return _cheapest(layer, target, packed, blocked) if plan is None else plan


def _tuned(layer: Conv, target: Target, packed: bool, blocked: bool) -> Plan | None:
    """The plan found by tuning, among those that are offered here and now."""
    name = tuned.find(_text(layer, packed, blocked), target)
    if not name:
        return None
    every = (plan for _, plans in _offers(layer, target, packed, blocked) for plan in plans)
    return next((plan for plan in every if repr(plan) == name), None)


def _text(layer: Conv, packed: bool, blocked: bool) -> str:
    name = {False: "channels-last", True: "contiguous"}
    return f"{layer}, {name[packed]} in, {name[blocked]} out, {current_precision()}"


def _cheapest(layer: Conv, target: Target, packed: bool, blocked: bool) -> Plan:
    offers = list(_offers(layer, target, packed, blocked))
    if len(offers) == 1:
        return offers[0][1][0]
    costs = [algorithm.cost(layer, plans[0], target) for algorithm, plans in offers]
    return offers[costs.index(min(costs))][1][0]


def _offers(
    layer: Conv, target: Target, packed: bool, blocked: bool
) -> Iterator[tuple[Algorithm, tuple[Plan, ...]]]:
    """The algorithms that take a layer in the precision in force, with their plans."""
    exact = current_precision() == "exact"
    for algorithm in kernels.ALGORITHMS:
        if (algorithm.exact or not exact) and algorithm.why_not(layer, target) is None:
            plans = algorithm.plans(layer, target, packed, blocked)
            if plans:
                yield algorithm, plans


def _size(conv: Conv) -> int:
    """SMALL: few outputs, or taps that lie too far apart for them, whatever their number; MIDDLE or
    LARGE.
    """
    if any(a.dilation > 1 and a.out / a.up <= APART * a.dilation for a in conv.axes):
        return SMALL
    outputs = prod(axis.out / axis.up for axis in conv.axes)
    if outputs <= BETWEEN:
        return SMALL
    return MIDDLE if outputs <= ABOVE and conv.dims < CUBES else LARGE


def _typical(conv: Conv) -> Conv:
    """The same layer at one of three sizes, so that it has at most three plans over all sizes; of
    a dilated layer, large ones are several.
    """
    size = _size(conv)
    if size != LARGE:
        return _at_size(conv, size)
    apart = [a.out / (a.up * a.dilation) for a in conv.axes if a.dilation > 1]
    counts = (count for most, count in SPREADS if apart and min(apart) <= most)
    return _large(conv, next(counts, WIDE))


def _at_size(conv: Conv, size: int) -> Conv:
    """The layer with about so many outputs, of a transposed axis from one input to the next."""
    side = _side(size, conv.dims)
    return _at(conv, [side * axis.up for axis in conv.axes])


def _side(size: int, dims: int) -> int:
    """Of a square or cube of so many outputs."""
    root: float = size ** (1 / dims)
    return max(1, floor(root))


def _spreads(conv: Conv) -> list[float]:
    """Those at which a large layer may be seen."""
    dilated = any(axis.dilation > 1 for axis in conv.axes)
    return [*(count for _, count in SPREADS if dilated), WIDE]


def _large(conv: Conv, spread: float) -> Conv:
    """The layer at the typical size of large images, its dilated axes so many distances of taps
    wide; of a transposed axis as many outputs as of any other, but at least half as many inputs,
    lest tiles of inputs be less full than they mostly are.
    """
    side = _side(LARGE, conv.dims)

    def outputs(axis: Axis) -> int:
        usual = side if axis.up == 1 else max(side, side // 2 * axis.up)
        if axis.dilation == 1:
            return usual
        wide = ceil(spread * axis.dilation) * axis.up
        return max(usual, wide) if spread == WIDE else wide

    return _at(conv, [outputs(axis) for axis in conv.axes])


def _at(conv: Conv, outputs: list[int]) -> Conv:
    """One image of the layer with about so many outputs along each axis.

    A padding mode may need more pixels than that to fill from: then the layer is larger.
    """
    for _ in range(GROWTHS):
        try:
            sized = (_sized(*each) for each in zip(conv.axes, outputs, strict=True))
            return replace(conv, n=1, axes=tuple(sized))
        except ProblemError:
            outputs = [2 * out for out in outputs]
    return conv.with_batch(1)


def _sized(axis: Axis, out: int) -> Axis:
    """The axis with about so many outputs."""
    size = ((out - 1) * axis.stride + axis.extent - axis.lo - axis.hi - 1) // axis.up + 1
    return axis.with_size(max(1, size))
