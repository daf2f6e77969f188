"""One layer as `konv compare` shows it: one or two convolutions, their weights, their code.

The arguments that are printed and those that are called with are the same ones: `arguments`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from konv import functional
from konv.analyze.concepts import CONCEPTS, Concept
from konv.analyze.filters import Array
from konv.geometry import Conv
from konv.geometry.count import BYTES
from konv.geometry.terms import Terms

WIDE = 76  # characters of code that fit beside a margin on 80 columns


@dataclass(frozen=True, slots=True)
class Worked:
    """The formulas of concepts.Symbols with a layer's numbers in place of the letters."""

    params: str
    macs: str
    receptive_field: str


@dataclass(frozen=True, slots=True)
class Layer:
    """One kind: its convolutions, one after the other, their weights, and what was derived.

    `filters` says what each output channel looks for.
    """

    kind: str
    convs: tuple[Conv, ...]
    weights: tuple[Array, ...]
    filters: tuple[str, ...]
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

    def worked(self) -> Worked:
        """Return parameters, MACs and receptive field as they are worked out."""
        conv = self.convs[0]
        terms = Terms.of(conv.axes[0], conv.transposed)
        k, m, n = terms.kernel, conv.ci, self.out_shape[1]
        params = f"{k}^2 * {m} * {n}" + f" / {conv.groups}" * (self.kind == "grouped")
        if self.kind == "separable":
            params = f"({k}^2 * {m} + {m} * {n})"
        positions = self.in_shape[2:] if conv.transposed else self.out_shape[2:]
        field = {
            "transposed": f"ceil({k} / {terms.stride})",
            "dilated": f"{terms.dilation} * ({k} - 1) + 1",
        }
        return Worked(
            params=f"{params.strip('()')} = {self.params:,}",
            macs=f"{params} * {positions[0]} * {positions[1]} = {self.macs:,}",
            receptive_field=f"{field.get(self.kind, '')} = {self.receptive_field[0]}".removeprefix(
                " = "
            ),
        )


def code(layer: Layer) -> dict[str, str]:
    """Return the Python that makes the layer, by library: "konv" and "torch"."""
    modules = [_module(conv) for conv in layer.convs]
    if len(modules) == 1 and len(modules[0]) > WIDE:
        name, _, numbers = modules[0].partition("(")
        modules = [f"{name}(", f"    {numbers.removesuffix(')')}", ")"]
    elif len(modules) > 1:
        modules = ["nn.Sequential(", *(f"    {module}," for module in modules), ")"]
    return {"konv": "\n".join(_calls(layer)), "torch": "\n".join(modules)}


def _calls(layer: Layer) -> list[str]:
    """Return a line for each convolution: y = konv.conv2d(x, weight, ...)."""
    lines = []
    for i, conv in enumerate(layer.convs):
        weight = "weight" if len(layer.convs) == 1 else f"weight{i + 1}"
        call = ", ".join(["xy"[i > 0], weight, *_written(conv)])
        lines.append(f"y = konv.{function_name(conv)}({call})")
    return lines


def _module(conv: Conv) -> str:
    name = f"nn.Conv{'Transpose' * conv.transposed}{conv.dims}d"
    numbers = [str(conv.ci), str(conv.co), str(conv.axes[0].kernel)]
    return f"{name}({', '.join([*numbers, *_written(conv), 'bias=False'])})"


def _written(conv: Conv) -> list[str]:
    return [f"{name}={value}" for name, value in arguments(conv).items()]


def function_name(conv: Conv) -> str:
    """Return what the function that computes it is called, in konv and in torch.nn.functional."""
    return f"conv{'_transpose' * conv.transposed}{conv.dims}d"


def arguments(conv: Conv) -> dict[str, int]:
    """Return the arguments of that function that differ from their defaults; axes must be alike."""
    terms = Terms.of(conv.axes[0], conv.transposed)
    values = {
        "stride": (terms.stride, 1),
        "padding": (terms.lo, 0),
        "output_padding": (terms.output_padding, 0),
        "dilation": (terms.dilation, 1),
        "groups": (conv.groups, 1),
    }
    return {name: value for name, (value, default) in values.items() if value != default}


def outputs(layer: Layer, image: Array) -> list[Array]:
    """Return what each convolution of the layer gives, the last being the layer's output."""
    found, x = [], image
    for conv, weight in zip(layer.convs, layer.weights, strict=True):
        x = getattr(functional, function_name(conv))(x, weight, **arguments(conv))
        found.append(x)
    return found
