"""Which plan for a layer: that of the algorithm whose own model says it is fastest, or the one that
`konv tune` has found faster on this machine.

Nothing is measured here, and choosing never looks at batch or thread count; of the image size it
knows only whether it is tiny, small, middling or large (konv.runtime.typical), how many outputs an
axis has if those are few, of a dilated layer about how many taps' distances it is wide, if few. So
a layer has four plans at most for a pair of layouts, one of images that are thin, a dilated one or
one of many taps a few more: a new size compiles nothing, and results do not depend on what else is
computed.
What goes by Fourier transforms has one of a few lengths, as the image itself asks
(konv.kernels.fourier.fit, konv.kernels.spectra.cut, konv.kernels.spectrum.cut), and so bits of its
own; of images that are too small for products of them the next plan is taken.
Layers that are matrix products (konv.runtime.flat) are seen with their images as pixels, and have
the bits of `direct` at every batch.
Contiguous depthwise layers have more for broad and for narrow images, which give the same bits, and
so have calls of layers of one tap whose weights need not be packed, by the size of the image and
the batch, which shares what packed ones cost at each call (konv.kernels.panels.instead).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import Literal

from konv import kernels
from konv.errors import ProblemError, UnsupportedError
from konv.geometry import Conv
from konv.kernels import direct, fourier, panels, planes, spectra, spectrum
from konv.plan import Algorithm, Plan, Transforms
from konv.runtime import tuned
from konv.runtime.typical import sizes, typical
from konv.target import Target

# Algorithms of which one plan stands for all lengths of transforms
TRANSFORMS: dict[str, Transforms] = {each.name: each for each in (fourier, spectra, spectrum)}
PRODUCTS = spectra.name, spectrum.name  # those that read many weights for a tile

Precision = Literal["exact", "fast"]

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
    layer = typical(conv)
    plan = _tuned(layer, target, packed, blocked)
    if plan:
        return of_image(conv, plan, target)
    return _for_image(conv, _cheapest(layer, target, packed, blocked), target, reads)


def of_image(conv: Conv, plan: Plan, target: Target) -> Plan:
    """The plan that an image of this size has where a plan was found to be the best for its layer:
    that plan, but one of Fourier transforms stands for all their lengths, and of products also for
    the next cheapest plans: images that are too small fill tiles badly, and read as many weights.
    """
    if plan.algorithm in PRODUCTS:
        found = [plan, *_instead(typical(conv), plan, target)]
        plan = min(found, key=lambda each: kernels.by_name(each.algorithm).cost(conv, each, target))
    transforms = TRANSFORMS.get(plan.algorithm)
    return transforms.for_image(conv, plan, target) if transforms else plan


def _instead(layer: Conv, plan: Plan, target: Target) -> Iterator[Plan]:
    """The cheapest plans of a layer but those of products of transforms that have been found."""
    without: tuple[str, ...] = ()
    while plan.algorithm in PRODUCTS:
        without += (plan.algorithm,)
        plan = _cheapest(layer, target, plan.packed, plan.blocked, without)
        yield plan


def _for_image(conv: Conv, plan: Plan, target: Target, reads: bool = False) -> Plan:
    """The plan for an image of this size, where one is chosen by its size itself; of all but
    Fourier transforms among those that give the same bits.
    """
    plan = of_image(conv, plan, target)
    if reads and plan.algorithm == direct.name:
        return panels.instead(conv, plan, target)
    return planes.for_image(conv, plan, target) if plan.algorithm == planes.name else plan


def choices(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """The plans of a layer over all image sizes: one, or some for tiny, small, middling, large,
    thin, broad and narrow images, for a dilated layer of several widths, for calls that need pack
    nothing, or for every length of transforms.
    """
    layers = sizes(conv)
    best = [_best(layer, target, packed, blocked) for layer in layers]
    found = dict.fromkeys(best)
    for layer, plan in zip(layers, best, strict=True):
        found |= dict.fromkeys(_instead(layer, plan, target))
    if any(plan.algorithm == planes.name for plan in found):
        found |= dict.fromkeys(planes.of_other_images(layers[-1], target, packed, blocked))
    if any(plan.algorithm == direct.name for plan in found):
        found |= dict.fromkeys(panels.of_calls(layers[0], target, packed, blocked))
    for plan in [plan for plan in found if plan.algorithm in TRANSFORMS]:
        found |= dict.fromkeys(TRANSFORMS[plan.algorithm].of_other_images(conv, plan))
    return tuple(found)


def modelled(conv: Conv, target: Target, packed: bool, blocked: bool) -> Plan:
    """The plan that the models say is fastest, whatever was found by tuning: one of those that are
    `offered`.
    """
    plan = _cheapest(typical(conv), target, packed, blocked)
    return plan if plan.algorithm in TRANSFORMS else _for_image(conv, plan, target)


def offered(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """Every plan that may be chosen for a layer, in the precision in force: of each algorithm that
    takes it all that it considers, of which `choose` weighs the first.
    """
    layer = typical(conv)
    return tuple(plan for _, plans in _offers(layer, target, packed, blocked) for plan in plans)


def found(conv: Conv, target: Target, packed: bool, blocked: bool) -> Plan | None:
    """The plan that tuning has found for a layer, None if it has found none or may not be used."""
    return _tuned(typical(conv), target, packed, blocked)


def layer_text(conv: Conv, packed: bool, blocked: bool) -> str:
    """All that a choice depends on beside the target, in words: what findings of tuning are for."""
    return _text(typical(conv), packed, blocked)


def pin(name: str, conv: Conv, target: Target, packed: bool, blocked: bool) -> Plan:
    """The plan of the algorithm of that name, however slow: the one that `choose` would weigh.
    Errors as `named`.
    """
    layer = typical(conv)
    plans = named(name, conv, target).plans(layer, target, packed, blocked)
    if not plans:
        raise _not_computed(name, conv, "has no kernel for these memory layouts")
    if name in TRANSFORMS:
        return TRANSFORMS[name].for_image(conv, plans[0], target)
    return _for_image(conv, plans[0], target)


def named(name: str, conv: Conv, target: Target) -> Algorithm:
    """The algorithm of that name. ProblemError if there is none, UnsupportedError, which says why,
    if it does not take the layer, at its typical size, in the precision in force.
    """
    those = [algorithm for algorithm in kernels.ALGORITHMS if algorithm.name == name]
    if not those:
        names = ", ".join(repr(algorithm.name) for algorithm in kernels.ALGORITHMS)
        raise ProblemError(f"plan={name!r} names no algorithm. Use {names}, or leave it out.")
    refused = those[0].why_not(typical(conv), target)
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


def _cheapest(
    layer: Conv, target: Target, packed: bool, blocked: bool, without: tuple[str, ...] = ()
) -> Plan:
    every = _offers(layer, target, packed, blocked)
    offers = [offer for offer in every if offer[0].name not in without]
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
