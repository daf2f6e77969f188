"""The rules that a Conv as a whole must keep; those of a single axis are in axis.py."""

from __future__ import annotations

from math import gcd, prod
from typing import TYPE_CHECKING

from konv.errors import ProblemError
from konv.geometry.axis import Axis
from konv.geometry.bounds import LIMIT, divisors, integer, listed, plain
from konv.geometry.count import BYTES
from konv.geometry.padding import check_mode

if TYPE_CHECKING:
    from konv.geometry.conv import Conv


def check(conv: Conv) -> None:
    """Raise ProblemError or TypeError if `conv` breaks a rule; make its integers plain ints."""
    channels = conv.ci, conv.co, conv.groups
    if not plain((conv.n, *channels)) or conv.n < 0 or min(channels) < 1:
        for field, name, least in (
            ("n", "batch", 0),
            ("ci", "in_channels", 1),
            ("co", "out_channels", 1),
            ("groups", "groups", 1),
        ):
            object.__setattr__(conv, field, integer(getattr(conv, field), name, least))
    if not isinstance(conv.transposed, bool):
        raise TypeError(f"transposed must be True or False, got {conv.transposed!r}.")
    object.__setattr__(conv, "axes", _axes(conv.axes))
    _check_groups(conv)
    check_dtype(conv.dtype)
    mode = check_mode(conv.mode)
    for axis in conv.axes:
        axis.check_mode(mode)
    _check_bytes(conv)


def layer(ci: int, co: int, dims: int, transposed: bool) -> str:
    """Name a layer in a message, in PyTorch's words.

    >>> layer(64, 128, dims=2, transposed=False)
    'Conv2d 64->128'
    """
    return f"Conv{'Transpose' * transposed}{dims}d {ci}->{co}"


def _axes(axes: object) -> tuple[Axis, ...]:
    if not isinstance(axes, tuple | list) or not all(isinstance(a, Axis) for a in axes):
        raise TypeError(f"axes must be a tuple of Axis, got {axes!r}.")
    if not 1 <= len(axes) <= 3:
        raise ProblemError(f"axes has {len(axes)} entries. Use 1, 2 or 3 spatial axes.")
    return tuple(axes)


def _check_groups(conv: Conv) -> None:
    for name, channels in (("in_channels", conv.ci), ("out_channels", conv.co)):
        if channels % conv.groups:
            raise ProblemError(
                f"groups={conv.groups} does not divide {name}={channels} "
                f"({layer(conv.ci, conv.co, conv.dims, conv.transposed)}). "
                f"Use {listed(divisors(gcd(conv.ci, conv.co)))}."
            )


def check_dtype(dtype: object) -> None:
    """Raise unless `dtype` is the name of one that konv computes with."""
    if not isinstance(dtype, str):
        raise TypeError(f"dtype must be a name such as 'float32', got {dtype!r}.")
    if dtype not in BYTES:
        raise ProblemError(f"dtype={dtype!r} is unknown. Use {', '.join(map(repr, BYTES))}.")


def _check_bytes(conv: Conv) -> None:
    """Each array must fit in 63 bits; the MACs need not, as nothing but Python counts them."""
    most, limit = conv.n * max(conv.ci, conv.co), LIMIT // BYTES[conv.dtype]
    taps = conv.ci * conv.co
    for axis in conv.axes:
        most, taps = most * max(axis.size, axis.out), taps * axis.kernel
    if most <= limit and taps <= limit:
        return
    for name, shape in (
        ("input", conv.in_shape),
        ("weight", conv.weight_shape),
        ("output", conv.out_shape),
    ):
        if prod(shape) > limit:
            raise ProblemError(
                f"{name} of shape {shape} has more bytes than fit in 63 bits. "
                f"Use a smaller batch, fewer channels or a smaller image."
            )
