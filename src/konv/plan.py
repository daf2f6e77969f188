"""How a convolution is computed: the Plan, and what an algorithm must offer to make and emit one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from konv.target import Target

if TYPE_CHECKING:
    from konv.geometry import Conv
    from konv.llvm import Module


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a kernel is specialised on, and nothing that changes with image size, batch or threads.

    `pixels` x `vectors` is the register tile, and `tail` the vectors of the last, narrower block of output
    channels (0: there is none); `packed` says that the input comes contiguous and is packed a
    unit at a time, `blocked` that the output goes out contiguous. A crop of the input whose origin is a multiple of
    `alignment` gives the same bits as the whole.
    """

    algorithm: str
    dtype: str
    pixels: int
    vectors: int
    tail: int
    packed: bool
    blocked: bool
    alignment: int = 1

    @property
    def widths(self) -> tuple[int, ...]:
        """The block widths, in vectors, that this plan's kernel needs."""
        return (self.vectors, self.tail) if self.tail else (self.vectors,)

    def __str__(self) -> str:
        name = {False: "channels-last", True: "contiguous"}
        layouts = f"{name[self.packed]} in, {name[self.blocked]} out"
        return f"{self.algorithm} {self.pixels}x{self.vectors} {self.dtype} {layouts}"


class Algorithm(Protocol):
    """One file of konv.kernels: knows when it applies, how it would do it, and the code for that."""

    name: str
    exact: bool  # every output is a plain sum of products, within the bound that reference.tolerance states

    def why_not(self, conv: Conv, target: Target) -> str | None:
        """Why it cannot do this problem, in words for a user; None if it can."""

    def plans(self, conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
        """The plans worth considering, most promising first."""

    def emit(self, plan: Plan, target: Target) -> Module:
        """The kernel: exports `run` (kernels.region) and `pack` (kernels.packing)."""
