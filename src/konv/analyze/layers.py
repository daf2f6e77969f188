"""The five layers that `konv compare` puts side by side, made from one set of arguments.

What a kind needs and the arguments do not say is derived here, and said: padding that keeps the
size, upsampling by two for the transposed layer, a group count that divides.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod

from konv.analyze import filters
from konv.analyze.concepts import CONCEPTS, Concept
from konv.analyze.filters import Array
from konv.errors import ProblemError
from konv.geometry import Conv
from konv.geometry.bounds import divisors, integer
from konv.geometry.count import BYTES
from konv.geometry.terms import Terms

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


@dataclass(frozen=True, slots=True)
class Layer:
    """One kind: its convolutions, one after the other, their weights, and what was derived."""

    kind: str
    convs: tuple[Conv, ...]
    weights: tuple[Array, ...]
    notes: tuple[str, ...] = ()

    @property
    def concept(self) -> Concept:
        """What is to be said of the kind."""
        return CONCEPTS[self.kind]

    @property
    def in_shape(self) -> tuple[int, ...]:
        """(n, ci, *spatial)"""
        return self.convs[0].in_shape

    @property
    def out_shape(self) -> tuple[int, ...]:
        """(n, co, *spatial)"""
        return self.convs[-1].out_shape

    @property
    def params(self) -> int:
        """Number of weights."""
        return sum(conv.params for conv in self.convs)

    @property
    def macs(self) -> int:
        """Nominal multiply-adds."""
        return sum(conv.macs for conv in self.convs)

    @property
    def exact_macs(self) -> int:
        """Multiply-adds that meet a real pixel."""
        return sum(conv.exact_macs for conv in self.convs)

    @property
    def bytes(self) -> int:
        """Bytes that must be at hand: input, weights, output, and what lies between two layers."""
        shapes = [self.in_shape, *(conv.out_shape for conv in self.convs)]
        return self.params * 4 + sum(prod(shape) for shape in shapes) * BYTES["float32"]

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Pixels that one output spans, per axis; a pointwise layer adds none."""
        return self.convs[0].receptive_field


def layers(settings: Settings, height: int, width: int) -> tuple[Layer, ...]:
    """Return the five layers on an image of height x width pixels, in the order of CONCEPTS."""
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
    bank = filters.bank(s.out_channels, s.in_channels, s.kernel)
    return Layer("ordinary", (conv,), (bank,), notes)


def _padding(s: Settings, dilation: int) -> tuple[int, tuple[str, ...]]:
    """Return the padding of a layer that slides, and what is to be said of it."""
    reach = dilation * (s.kernel - 1)
    keeps = f"2P = a(K - 1) = {reach}" if dilation > 1 else f"2P = K - 1 = {reach}"
    if s.padding is None:
        padding = reach // 2
        if reach % 2:
            return padding, (f"padding {padding} derived: no padding keeps the size, {keeps} is odd",)
        return padding, (f"padding {padding} derived: it keeps the size, {keeps}",)
    change = 2 * s.padding - reach
    if not change:
        return s.padding, ()
    way_out = "" if reach % 2 else f"; padding {reach // 2} keeps it"
    word = "grows" if change > 0 else "shrinks"
    note = f"padding {s.padding} changes the size: it {word} by {abs(change)} before the stride"
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
    notes = (
        f"stride {stride}, padding {padding}, output_padding {more} derived: "
        f"the output is exactly {stride} x the input, 2P - r = K - S = {s.kernel - stride}",
    )
    if s.kernel % stride:
        notes += (f"kernel {s.kernel} is no multiple of stride {stride}: a checkerboard may show",)
    bank = filters.bank(s.out_channels, s.in_channels, s.kernel).swapaxes(0, 1)[..., ::-1, ::-1]
    return Layer("transposed", (conv,), (bank.copy(),), notes)


def _dilated(s: Settings, shape: tuple[int, ...]) -> Layer:
    padding, notes = _padding(s, s.dilation)
    conv = Conv.of(shape, s.out_channels, s.kernel, s.stride, padding, s.dilation)
    bank = filters.bank(s.out_channels, s.in_channels, s.kernel)
    return Layer("dilated", (conv,), (bank,), notes)


def _grouped(s: Settings, shape: tuple[int, ...]) -> Layer:
    padding, _ = _padding(s, 1)
    groups, notes = _groups(s)
    conv = Conv.of(shape, s.out_channels, s.kernel, s.stride, padding, groups=groups)
    bank = filters.grouped_bank(s.out_channels, s.in_channels, groups, s.kernel)
    return Layer("grouped", (conv,), (bank,), notes)


def _groups(s: Settings) -> tuple[int, tuple[str, ...]]:
    if s.groups is not None:
        return s.groups, ()
    both = f"{s.in_channels} and {s.out_channels}"
    found = divisors(gcd(s.in_channels, s.out_channels))[1:]
    if not found:
        return 1, (f"groups 1: nothing else divides {both}, so this is the ordinary layer again",)
    groups = max((g for g in found if g <= MOST_GROUPS), default=found[0])
    return groups, (f"groups {groups} derived: it divides {both}",)


def _separable(s: Settings, shape: tuple[int, ...]) -> Layer:
    padding, _ = _padding(s, 1)
    m = s.in_channels
    depthwise = Conv.of(shape, m, s.kernel, s.stride, padding, groups=m)
    pointwise = Conv.of(depthwise.out_shape, s.out_channels, 1)
    weights = (filters.depthwise_bank(m, s.kernel), filters.pointwise_mixes(s.out_channels, m))
    notes = (f"groups {m} = in_channels, then a kernel of 1 x 1",)
    return Layer("separable", (depthwise, pointwise), weights, notes)


def code(layer: Layer) -> dict[str, str]:
    """Return the Python that makes the layer, by library: "konv" and "torch"."""
    modules = [_module(conv) for conv in layer.convs]
    torch = modules[0] if len(modules) == 1 else f"torch.nn.Sequential({', '.join(modules)})"
    return {"konv": "\n".join(_calls(layer)), "torch": torch}


def _calls(layer: Layer) -> list[str]:
    """Return a line for each convolution: y = konv.conv2d(x, weight, ...)."""
    lines = []
    for i, conv in enumerate(layer.convs):
        name = f"conv{'_transpose' * conv.transposed}{conv.dims}d"
        weight = "weight" if len(layer.convs) == 1 else f"weight{i + 1}"
        arguments = ", ".join(["xy"[i > 0], weight, *_arguments(conv)])
        lines.append(f"y = konv.{name}({arguments})  # {weight}: {conv.weight_shape}")
    return lines


def _module(conv: Conv) -> str:
    name = f"torch.nn.Conv{'Transpose' * conv.transposed}{conv.dims}d"
    kernel = conv.axes[0].kernel
    arguments = [str(conv.ci), str(conv.co), str(kernel), *_arguments(conv), "bias=False"]
    return f"{name}({', '.join(arguments)})"


def _arguments(conv: Conv) -> list[str]:
    """Return the arguments that differ from their defaults, as name=value."""
    terms = Terms.of(conv.axes[0], conv.transposed)
    words = {
        "stride": (terms.stride, 1),
        "padding": (terms.lo, 0),
        "output_padding": (terms.output_padding, 0),
        "dilation": (terms.dilation, 1),
        "groups": (conv.groups, 1),
    }
    return [f"{word}={value}" for word, (value, default) in words.items() if value != default]
