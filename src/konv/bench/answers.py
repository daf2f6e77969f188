"""What is right, before anything is timed: every answer against konv.reference, in float64.

The reference's matrix of columns is as large as the number of multiply-adds over output channels,
so a line is checked as fully as there is room for:

- small: every output against the reference, within its bound.
- any size: the outputs at the image's corners and at random places. The pixels under the kernel at
  one place are the image of a convolution of their own, with a single output: many places make a
  batch of those, which the reference then computes. Strict, and far from complete; so besides,
- where PyTorch is installed: every output against PyTorch in float64, within the largest bound of
  the places above. (The bound grows with sum|x||w|, which varies little for normal numbers.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import product
from math import prod

import numpy as np

from konv.bench.peers.peer import CONTIGUOUS, Array
from konv.bench.peers.torch import Torch
from konv.bench.working import Arrays
from konv.geometry import Axis, Conv
from konv.kernels import fourier, spectra, spectrum, upright
from konv.llvm import detect
from konv.reference import im2col
from konv.rounding import channel_tolerance, tolerance

ENTRIES = 4_000_000  # of the reference's matrix: 32 MB, a quarter of a second
PLACES = 64  # each with all output channels

FEWEST_WINOGRAD = (
    16  # input channels of a group: below, no library gains by Winograd, konv never uses it
)


@dataclass(frozen=True, slots=True)
class Answers:
    """The right outputs of a line, and how far off they may be; `said` is what they come from.

    `places` are indices into an output (n, channel, *spatial), None for all of it. `everywhere` are
    PyTorch's outputs in float64, None if there are none.
    """

    shape: tuple[int, ...]
    places: tuple[Array, ...] | None
    right: Array
    allowed: Array
    everywhere: Array | None
    said: str

    def why_wrong(self, answer: object) -> str | None:
        """Return what is wrong with an answer, None if it is right."""
        y = np.asarray(answer)
        if y.shape != self.shape:
            return f"its shape is {y.shape}, not {self.shape}"
        known = y if self.places is None else _take(y, self.places)
        why = _why_off(known, self.right, self.allowed)
        if why or self.everywhere is None:
            return why
        return _why_off(y, self.everywhere, np.asarray(self.allowed.max(initial=0.0)))


def _why_off(y: Array, right: Array, allowed: Array) -> str | None:
    error = np.abs(y.astype(np.float64) - right)
    if (error <= allowed).all():  # not so for NaN
        return None
    off = error - allowed
    at = np.unravel_index(np.argmax(np.where(np.isnan(off), np.inf, off)), off.shape)
    bound = float(np.broadcast_to(allowed, error.shape)[at])
    return f"off by {float(error[at]):.3g} where {bound:.3g} is allowed"


def answers(conv: Conv, arrays: Arrays, entries: int = ENTRIES) -> Answers:
    """Return the right answers of a line for its arrays."""
    outputs = prod(conv.out_shape[2:])
    patch = conv.ci * prod(axis.kernel for axis in conv.axes)
    method = _method(conv)
    if patch * outputs * conv.n <= entries or not outputs * conv.n:
        right, allowed = im2col(conv, *arrays), tolerance(conv, *arrays, method)
        of_images = _of_transforms(conv, arrays)
        allowed = allowed if of_images is None else np.maximum(allowed, of_images)
        return Answers(conv.out_shape, None, right, allowed, None, "all outputs, konv.reference")
    places = _places(conv, max(2**conv.dims, min(PLACES, entries // patch)))
    small, patches = _patches(conv, arrays.x, places)
    right = im2col(small, patches, arrays.weight, arrays.bias)
    allowed = tolerance(small, patches, arrays.weight, arrays.bias, method)
    of_images = _of_transforms(conv, arrays)
    if of_images is not None:
        allowed = np.maximum(allowed, _take(of_images, places).reshape(allowed.shape))
    flat = right.shape[:2]
    said = f"{right.size:,} of {prod(conv.out_shape):,} outputs, konv.reference"
    everywhere = _everywhere(conv, arrays)
    if everywhere is not None:
        said += "; all, PyTorch in float64"
    return Answers(
        conv.out_shape, places, right.reshape(flat), allowed.reshape(flat), everywhere, said
    )


def _of_transforms(conv: Conv, arrays: Arrays) -> Array | None:
    """Return the bound of Fourier transforms for each output, if konv may use them: their errors
    follow the whole image, not what an output reads of it.
    """
    for transforms in (fourier, spectrum, spectra):  # the widest first
        if transforms.why_not(conv, detect()) is None:
            return channel_tolerance(conv, *arrays, transforms.name)
    return None


def _method(conv: Conv) -> str:
    """Return whose bound holds: Winograd's is wider, and any library may use it where it pays; so
    is that of many taps, by blocks.
    """
    taps = prod(axis.kernel for axis in conv.axes)
    if upright.why_not(conv, detect()) is None:
        return str(upright.name)
    few = conv.ci // conv.groups < FEWEST_WINOGRAD
    return "direct" if taps == 1 or few or conv.dtype == "float64" else "winograd"


def _places(conv: Conv, count: int) -> tuple[Array, ...]:
    """Return (image, *position) indices: the corners, where tails are, and others at random."""
    outputs = conv.out_shape[2:]
    corners = np.array(list(product(*((0, out - 1) for out in outputs))))
    random = np.random.default_rng(1)
    others = random.integers(0, outputs, (max(0, count - len(corners)), conv.dims))
    positions = np.concatenate([corners, others])
    images = random.integers(0, conv.n, len(positions))
    images[0], images[-1] = 0, conv.n - 1
    return (images, *positions.T)


def _take(y: Array, places: tuple[Array, ...]) -> Array:
    """Return the outputs (place, channel) at places."""
    image, *position = places
    channel_last = np.moveaxis(y, 1, -1)
    taken: Array = channel_last[(image, *position)]
    return taken


def _patches(conv: Conv, x: Array, places: tuple[Array, ...]) -> tuple[Conv, Array]:
    """Return the pixels under the kernel at places, zero where none is, and their convolution."""
    axes = tuple(Axis(axis.kernel, axis.kernel) for axis in conv.axes)
    small = replace(conv, n=len(places[0]), axes=axes, mode="zeros")
    patches = np.zeros(small.in_shape, x.dtype)
    for patch, image, *position in zip(patches, *places, strict=True):
        sources = [
            [
                (k, s)
                for k in range(axis.kernel)
                if (s := axis.source(int(o), k, conv.mode)) is not None
            ]
            for axis, o in zip(conv.axes, position, strict=True)
        ]
        channels = range(conv.ci)
        taps, pixels = ([[pair[i] for pair in each] for each in sources] for i in (0, 1))
        patch[np.ix_(channels, *taps)] = x[image][np.ix_(channels, *pixels)]
    return small, patches


def _everywhere(conv: Conv, arrays: Arrays) -> Array | None:
    """Return PyTorch's outputs in float64, None without PyTorch or where it refuses."""
    double = replace(conv, dtype="float64")
    torch = Torch(CONTIGUOUS)
    if find_spec("torch") is None or torch.why_not(double):
        return None
    return np.asarray(torch.prepare(double, *(a.astype(np.float64) for a in arrays))())
