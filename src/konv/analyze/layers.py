"""The five layers that `konv compare` puts side by side, made from one set of arguments.

What a kind needs and the arguments do not say is derived here, and said: padding that keeps the
size, upsampling by two for the transposed layer, a group count that divides.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from konv.analyze import filters
from konv.analyze.layer import Layer
from konv.geometry import Conv
from konv.geometry.bounds import divisors, integer
from konv.runtime import memory

A_WEIGHT = 32  # bytes: kept in float32 by three kinds, and worked out in float64 before
MOST_GROUPS = 4  # that a grouped layer gets unasked: with more it would look like a depthwise one


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user says; None is derived for each kind (ProblemError where nothing fits)."""

    in_channels: int = 3
    out_channels: int = 24
    kernel: int = 3
    stride: int = 1
    padding: int | None = None
    dilation: int = 2
    groups: int | None = None

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "kernel", "stride", "dilation"):
            integer(getattr(self, name), name, least=1)
        if self.padding is not None:
            integer(self.padding, "padding", least=0)
        if self.groups is not None:
            integer(self.groups, "groups", least=1)


def layers(settings: Settings, height: int, width: int) -> tuple[Layer, ...]:
    """Return the five layers on an image of height x width pixels, in the order of CONCEPTS."""
    k, m, n = settings.kernel, settings.in_channels, settings.out_channels
    memory.require(A_WEIGHT * m * n * k**2, f"the weights of {m} x {n} kernels of {k} x {k}")
    shape = (1, settings.in_channels, height, width)
    return (
        _ordinary(settings, shape),
        _transposed(settings, shape),
        _dilated(settings, shape),
        _grouped(settings, shape),
        _separable(settings, shape),
    )


def _ordinary(s: Settings, shape: tuple[int, ...]) -> Layer:
    padding, notes = _padding(s, 1)
    conv = Conv.of(shape, s.out_channels, s.kernel, s.stride, padding)
    return Layer("ordinary", (conv,), (_bank(s),), _names(s), notes)


def _bank(s: Settings) -> filters.Array:
    return filters.bank(s.out_channels, s.in_channels, s.kernel)


def _names(s: Settings) -> tuple[str, ...]:
    return filters.names(s.out_channels, s.in_channels, s.kernel)


def _padding(s: Settings, dilation: int) -> tuple[int, tuple[str, ...]]:
    """Return the padding of a layer that slides, and what is to be said of it."""
    reach = dilation * (s.kernel - 1)
    keeps = f"2P = a(K - 1) = {reach}" if dilation > 1 else f"2P = K - 1 = {reach}"
    if s.padding is None:
        padding = reach // 2
        if reach % 2:
            return padding, (f"padding {padding}: none keeps the size, {keeps} is odd",)
        what = "keeps the size" if s.stride == 1 else f"divides the size by {s.stride}"
        return padding, (f"padding {padding}: it {what}, {keeps}",)
    change = 2 * s.padding - reach
    if not change:
        return s.padding, ()
    way_out = "" if reach % 2 else f"; padding {reach // 2} keeps it"
    word = "grows" if change > 0 else "shrinks"
    note = f"padding {s.padding} changes the size: before the stride it {word} by {abs(change)}"
    return s.padding, (note + way_out,)


def _transposed(s: Settings, shape: tuple[int, ...]) -> Layer:
    """Upsample by the stride, by two where that is 1, to exactly so many times the size.

    out = (size - 1) S - 2P + K + r = size * S wherever 2P - r = K - S.
    """
    stride = s.stride if s.stride > 1 else 2
    padding = max(0, -(-(s.kernel - stride) // 2))
    more = 2 * padding - (s.kernel - stride)
    conv = Conv.of(
        shape, s.out_channels, s.kernel, stride, padding, transposed=True, output_padding=more
    )
    notes: tuple[str, ...] = (
        f"stride {stride}, padding {padding}, output_padding {more}: "
        f"the output is exactly {stride} x the input, 2P - r = K - S = {s.kernel - stride}",
    )
    if s.kernel % stride:
        notes += (f"kernel {s.kernel} is no multiple of stride {stride}: a checkerboard may show",)
    bank = _bank(s).swapaxes(0, 1)[..., ::-1, ::-1]
    return Layer("transposed", (conv,), (bank.copy(),), _names(s), notes)


def _dilated(s: Settings, shape: tuple[int, ...]) -> Layer:
    padding, notes = _padding(s, s.dilation)
    conv = Conv.of(shape, s.out_channels, s.kernel, s.stride, padding, s.dilation)
    return Layer("dilated", (conv,), (_bank(s),), _names(s), notes)


def _grouped(s: Settings, shape: tuple[int, ...]) -> Layer:
    padding, _ = _padding(s, 1)
    groups, notes = _groups(s)
    conv = Conv.of(shape, s.out_channels, s.kernel, s.stride, padding, groups=groups)
    bank = filters.grouped_bank(s.out_channels, s.in_channels, groups, s.kernel)
    names = filters.names(s.out_channels // groups, s.in_channels // groups, s.kernel)
    of_groups = tuple(f"{name}, group {g}" for g in range(groups) for name in names)
    return Layer("grouped", (conv,), (bank,), of_groups, notes)


def _groups(s: Settings) -> tuple[int, tuple[str, ...]]:
    if s.groups is not None:
        return s.groups, ()
    both = f"{s.in_channels} and {s.out_channels}"
    found = divisors(gcd(s.in_channels, s.out_channels))[1:]
    if not found:
        return 1, (f"groups 1: nothing else divides {both}, so this is the ordinary layer again",)
    groups = max((g for g in found if g <= MOST_GROUPS), default=found[0])
    return groups, (f"groups {groups}: it divides {both}",)


def _separable(s: Settings, shape: tuple[int, ...]) -> Layer:
    padding, _ = _padding(s, 1)
    m = s.in_channels
    depthwise = Conv.of(shape, m, s.kernel, s.stride, padding, groups=m)
    pointwise = Conv.of(depthwise.out_shape, s.out_channels, 1)
    weights = (filters.depthwise_bank(m, s.kernel), filters.pointwise_mixes(s.out_channels, m))
    notes = (f"groups {m}: one for each input channel; then a kernel of 1 x 1",)
    mixes = tuple(f"mix {n}" for n in range(s.out_channels))
    return Layer("separable", (depthwise, pointwise), weights, mixes, notes)
