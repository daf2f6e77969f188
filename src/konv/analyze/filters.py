"""Fixed filters for the weights of `konv compare`: feature maps of random weights show nothing.

A bank of N filters over M channels is a product: a few patterns in space (blur, centre-surround,
edges and lines at several angles) times a few mixes of channels (their mean, then differences).
Nothing is random but the 1 x 1 mixes of the separable layer, and those come from a fixed seed.
"""

from __future__ import annotations

from math import ceil, cos, pi, sin
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

PATTERNS = (
    8  # blur, centre-surround, four edges and two lines: all that a 3 x 3 kernel can tell apart
)


def bank(outs: int, ins: int, kernel: int) -> Array:
    """Return weights (outs, ins, kernel, kernel): every pattern with the first mix, then the next.

    >>> bank(24, 3, 3).shape
    (24, 3, 3, 3)
    """
    count = _pattern_count(outs, ins)
    spatial, mixes = patterns(kernel, count), channel_mixes(ins)
    rows = [mixes[n // count % ins, :, None, None] * spatial[n % count] for n in range(outs)]
    return np.stack(rows).astype(np.float32)


def names(outs: int, ins: int, kernel: int) -> tuple[str, ...]:
    """Return what each filter of a bank looks for.

    >>> names(24, 3, 3)[1], names(24, 3, 3)[12]
    ('centre-surround', 'edge 0 deg, red - blue')
    """
    count = _pattern_count(outs, ins)
    spatial, mixes = pattern_names(kernel, count), mix_names(ins)
    pairs = ((spatial[n % count], mixes[n // count % ins]) for n in range(outs))
    return tuple(f"{pattern}, {mix}" if mix else pattern for pattern, mix in pairs)


def mix_names(ins: int) -> tuple[str, ...]:
    """Return what each of the channel mixes is; nothing for the first, their mean."""
    if ins == 3:
        return ("", "red - blue", "magenta - green")
    return ("", *(f"difference {j}" for j in range(1, ins)))


def pattern_names(kernel: int, count: int) -> tuple[str, ...]:
    """Return what each of `patterns` is; of an edge or a line, how it runs."""
    if kernel == 1:
        return ("single tap",) * count
    edges, lines = _edges_and_lines(count)
    surround, line = ("diagonal", "diagonal") if kernel == 2 else ("centre-surround", "line")
    found = ["blur", surround]
    found += [f"edge {(90 - 180 * i / edges) % 180:.0f} deg" for i in range(edges)]
    found += [f"{line} {(90 - 180 * i / lines) % 180:.0f} deg" for i in range(lines)]
    return tuple(found)


def _edges_and_lines(count: int) -> tuple[int, int]:
    """Two thirds of what blur and centre-surround leave are edges."""
    lines = (count - 2) // 3
    return count - 2 - lines, lines


def grouped_bank(outs: int, ins: int, groups: int, kernel: int) -> Array:
    """Return weights (outs, ins / groups, kernel, kernel): the same bank for each group."""
    return np.concatenate([bank(outs // groups, ins // groups, kernel)] * groups)


def depthwise_bank(channels: int, kernel: int) -> Array:
    """Return weights (channels, 1, kernel, kernel): a pattern for each channel, edges first."""
    spatial = patterns(kernel, max(PATTERNS, channels))
    order = [*range(2, len(spatial)), 0, 1]
    return spatial[order[:channels]][:, None].astype(np.float32)


def pointwise_mixes(outs: int, ins: int) -> Array:
    """Return weights (outs, ins, 1, 1): rows of length 1 in random directions of a fixed seed."""
    rows = np.random.default_rng(2012).standard_normal((outs, ins))
    rows /= np.sqrt((rows**2).sum(axis=1, keepdims=True))
    return rows[:, :, None, None].astype(np.float32)


def _pattern_count(outs: int, ins: int) -> int:
    """As many patterns as it takes for no two filters to be alike."""
    return max(PATTERNS, ceil(outs / ins))


def channel_mixes(ins: int) -> Array:
    """Return (ins, ins) mixes of channels, each of length 1: the mean, then finer differences.

    The rows of a discrete cosine transform. For red, green, blue they are brightness, red against
    blue, and green against magenta.
    """
    rows = [[cos(pi * j * (m + 0.5) / ins) for m in range(ins)] for j in range(ins)]
    mixes = np.array(rows)
    lengths: Array = np.sqrt((mixes**2).sum(axis=1, keepdims=True))
    return np.asarray(mixes / lengths)


def patterns(kernel: int, count: int) -> Array:
    """Return (count, kernel, kernel): blur, centre-surround, then edges, then lines.

    Edges and lines are Gabor functions, odd and even, at angles spread over half a turn. All but
    the blur sum to zero, so that a flat image gives zero. A single tap has no pattern but itself,
    and 2 x 2 taps have no centre and no line: both are diagonals there.
    """
    if kernel == 1:
        return np.ones((count, 1, 1))
    edges, lines = _edges_and_lines(count)
    angles = [(pi * i / edges, pi / 2) for i in range(edges)]
    angles += [(pi * i / lines, 0.0) for i in range(lines)]
    blur = _gabor(kernel, 0, 0, waves=0)
    blur /= blur.sum()
    surround = np.zeros((kernel, kernel))
    middle = slice((kernel - 1) // 2, kernel // 2 + 1)
    surround[middle, middle] = 1 / surround[middle, middle].size
    found = [surround - blur]
    found += [_gabor(kernel, angle, phase, waves=1) for angle, phase in angles]
    return np.stack([blur, *map(_balanced, found)])


def _gabor(kernel: int, angle: float, phase: float, waves: float) -> Array:
    """Return a wave across the kernel under a bell."""
    at = (np.arange(kernel) - (kernel - 1) / 2) / (kernel / 2)
    across = at[None, :] * cos(angle) + at[:, None] * sin(angle)
    bell = np.exp(-2 * (at[None, :] ** 2 + at[:, None] ** 2))
    return np.asarray(bell * np.cos(pi * waves * across - phase))


def _balanced(pattern: Array) -> Array:
    """Return the pattern with sum zero and positive part one; a diagonal if it has no pattern."""
    pattern = pattern - pattern.mean()
    if np.abs(pattern).max() < 1e-9:
        pattern = np.array([[0.5, -0.5], [-0.5, 0.5]])
    return np.asarray(pattern / pattern[pattern > 0].sum())
