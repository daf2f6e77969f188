"""Phases: an axis with inserted zeros is several axes without, interleaved.

With `up` = u and stride s, whether tap k meets a pixel or an inserted zero depends on the output o
only through (o * s) mod u, which repeats every P = u / gcd(s, u) outputs. So the outputs f, f + P,
f + 2P, ... use the same taps, and along them the source advances by P * s / u pixels, an integer:
each such set of outputs is a dense convolution with a subset of the taps. Nothing is ever
multiplied by an inserted zero.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phase:
    """Outputs first + step * j for j in 0..count-1, all with the same taps.

    Tap taps[i] reads source index sources[i] + stride * j, which may lie outside the image, in the
    padding. A phase may have no tap at all; its outputs are then zero (or the bias).
    """

    first: int
    step: int
    count: int
    stride: int
    taps: tuple[int, ...]
    sources: tuple[int, ...]


def residues(kernel: int, dilation: int, lo: int, up: int) -> dict[int, tuple[int, ...]]:
    """Return the taps k sorted by (k * dilation - lo) mod up; output o uses those at -o*s mod up.

    >>> residues(kernel=4, dilation=1, lo=2, up=2)
    {0: (0, 2), 1: (1, 3)}
    """
    found: dict[int, list[int]] = {}
    for k in range(kernel):
        found.setdefault((k * dilation - lo) % up, []).append(k)
    return {residue: tuple(taps) for residue, taps in found.items()}
