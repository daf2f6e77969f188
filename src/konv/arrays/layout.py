"""How arrays lie in memory: strides in elements of (n, c, *spatial)."""

from __future__ import annotations

Shape = tuple[int, ...]


def channels_last(shape: Shape, strides: Shape) -> bool:
    """Whether an array (n, c, *spatial) lies channels last, by PyTorch's own rule.

    Strides must not fall in the order c, last spatial, ..., first spatial, n. With a single channel
    or pixel an array may be contiguous as well; its strides then say which its owner means.
    """
    order = [1, *range(len(shape) - 1, 1, -1), 0]
    least = 0
    for axis in order:
        if strides[axis] < least or shape[axis] == 0:
            return False
        if axis == 0 and least == strides[1]:
            return False
        least = strides[axis] * (max(1, shape[axis]))
    return strides[1] > 0


def dense_strides(shape: Shape, last: bool) -> Shape:
    """Strides in elements of a new array (n, c, *spatial), channels last or contiguous."""
    order = [1, *range(len(shape) - 1, 1, -1), 0] if last else list(range(len(shape) - 1, -1, -1))
    strides, step = [0] * len(shape), 1
    for axis in order:
        strides[axis] = step
        step *= shape[axis]
    return tuple(strides)
