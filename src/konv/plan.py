"""How a convolution is computed: the Plan, and what an algorithm must offer to make and emit
one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from konv.target import Target

if TYPE_CHECKING:
    from konv.geometry import Conv
    from konv.llvm import Module


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What is done to results on their way out, y = activation(sum + residual): the last three
    fields of a Plan.
    """

    activation: str = ""
    slope: float = 0.0
    residual: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a kernel is specialised on, and nothing that changes with image size, batch
    or threads.

    packed       the input comes contiguous and is packed a unit at a time; else it is channels-last
    blocked      the output goes out contiguous, mostly through a block in scratch; else it is
                 channels-last
    pixels       x `vectors` is the register tile: pixels by vectors of output channels
    tail         vectors in the last, other block of output channels of a group; 0: all blocks are
                 alike
    odd          channels in the very last vector; 0: it is full, or may be written in full
    depth        numbers that a tap reads, the input channels of a group for each tap that is taken
                 with it, if the channels are few enough for a kernel of their own; 0: a loop; of
                 konv.kernels.spectra and spectrum from real to imaginary parts
    form         what else the inner loops are specialised on, as the file of the algorithm says
    alignment    a crop whose origin is a multiple of it gives the same bits as the whole; the code
                 does not depend on it
    activation   what results go through on their way out (kernels.epilogue), "" for nothing
    slope        of a leaky ReLU below 0
    residual     an array like the output is added to it, before the activation

    An algorithm's own plans have none of the last three; the runtime adds them (`followed_by`),
    and every algorithm supports them all.
    """

    algorithm: str
    dtype: str
    packed: bool
    blocked: bool
    pixels: int
    vectors: int
    tail: int = 0
    odd: int = 0
    depth: int = 0
    alignment: int = 1
    form: tuple[int, ...] = ()
    activation: str = ""
    slope: float = 0.0
    residual: bool = False

    def followed_by(self, epilogue: Epilogue) -> Plan:
        """The same plan with something done to its results."""
        return replace(
            self,
            activation=epilogue.activation,
            slope=epilogue.slope,
            residual=epilogue.residual,
        )

    def __str__(self) -> str:
        name = {False: "channels-last", True: "contiguous"}
        layouts = f"{name[self.packed]} in, {name[self.blocked]} out"
        after = " + residual" * self.residual + f", {self.activation}" * bool(self.activation)
        return f"{self.algorithm} {self.pixels}x{self.vectors} {self.dtype} {layouts}{after}"


@dataclass(frozen=True, slots=True)
class Work:
    """One convolution at one image size, as a kernel is told it.

    words     what the kernel's file says they are; every thread reads them
    threads   that are worth waking for it
    scratch   bytes of memory that each thread needs
    """

    words: list[int]
    threads: int
    scratch: int


@dataclass(frozen=True, slots=True)
class Packing:
    """Packed weights: their bytes, and the groups and channels of a group as `pack` takes them."""

    bytes: int
    groups: int
    co: int
    ci: int


@dataclass(frozen=True, slots=True)
class Blocks:
    """What a kernel takes at once of a layer: for each (how many there are, how many at once).

    What fills no block goes another way through a kernel, so this says which sizes are worth a
    test.

    pixels    outputs of one channel and phase that tiles run over
    co, ci    channels of a group
    """

    pixels: tuple[int, int]
    co: tuple[int, int]
    ci: tuple[int, int]
    groups: tuple[int, int]


Strides = tuple[int, ...]  # in elements, (batch, channel, *spatial)


class Algorithm(Protocol):
    """One file of konv.kernels: knows when it applies, how it would do it, and the code for
    that.
    """

    name: str
    # Every output is a plain sum of products, within the bound that rounding.tolerance states.
    exact: bool
    # Each result is stored once, so that a residual may lie in the output's own memory.
    once: bool
    # What the words of its jobs are called; the tables behind them have no names. `units` is first.
    words: tuple[str, ...]

    def why_not(self, conv: Conv, target: Target) -> str | None:
        """Why it cannot do this problem, in words for a user; None if it can."""

    def plans(self, conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
        """The plans worth considering, most promising first; none if it has no way to work in this
        pair of layouts.
        """

    def cost(self, conv: Conv, plan: Plan, target: Target) -> float:
        """Cycles of one core for one image, by a model of the plan: what plans are chosen by."""

    def work(
        self, conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int
    ) -> Work:
        """How a plan cuts the layer, for an input and an output with these strides."""

    def packing(self, conv: Conv, plan: Plan, target: Target) -> Packing:
        """What its packed weights are."""

    def blocks(self, conv: Conv, plan: Plan, target: Target) -> Blocks:
        """What its kernel takes at once."""

    def emit(self, plan: Plan, target: Target) -> Module:
        """The kernel: exports `run` (kernels.region) and `pack` (kernels.packing)."""


class Transforms(Protocol):
    """What is chosen for an image itself: one plan of an algorithm stands for all lengths of its
    transforms.
    """

    def for_image(self, conv: Conv, plan: Plan, target: Target) -> Plan:
        """The plan for an image of this size."""

    def of_other_images(self, conv: Conv, plan: Plan) -> list[Plan]:
        """The plans that `for_image` may give, whatever the size."""
