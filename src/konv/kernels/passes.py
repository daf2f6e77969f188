"""Deep layers are summed in passes: all taps of some input channels, then of the next.

    for pass over the channels of a group:                 sums stay in scratch in between
        contiguous input: pack these channels of the box
        for block of output channels: for tile of pixels   konv.kernels.units

A block's weights are read anew for every tile of pixels, and those of all channels of a packed box
fill the second-level cache with a few pixels. Of 64 channels both find room: contiguous, 3x3 of
2048@65 dilated by 24 took 444 ms in one pass and takes 181, 7x7 of 512@22 448 and 322, 1x1 of
2048@65 33 and 27, 3x3 s2 of 512@14 1.89 and 1.69 (Zen 3). An image that is not packed is read where
it lies, and is best read in long runs: 153 ms in one pass, 199 in eight.

The channels of a pass depend on the layer alone, so every output is one and the same chain of
multiply-adds: passes, taps, channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from konv.geometry import Conv
from konv.kernels.microtile import UNROLL

# Products of an output above which a layer is deep (3x3 of 128 channels gains nothing), and wanted
# in a pass (2304: 277 ms where 576 takes 178), of so many channels at least (16: taps are too
# short, 3x3x3 of 256@8x14x14 takes 1.2 times as long).
DEEP, WANTED, LEAST = 1536, 576, 64


@dataclass(frozen=True, slots=True)
class Passes:
    """How often a layer's sums are taken up.

    count    passes
    share    channels of a group in each but the last, which may have fewer
    held     channels of all groups that a packed image holds of a pixel: those of one pass, if all
             passes have as many and there is one group; else all
    """

    count: int
    share: int
    held: int

    @classmethod
    def of(cls, conv: Conv, groups: int, deep: bool) -> Passes:
        """One pass, unless the plan is for `deep` layers; `groups` as the kernel sees them."""
        ci = conv.ci // groups
        share = _share(conv) if deep else ci
        even = groups == 1 and ci % share == 0
        return cls(-(-ci // share), share, share if even else conv.ci)


def is_deep(conv: Conv) -> bool:
    """Whether a layer goes in several passes. Phases of transposed layers do not."""
    return all(axis.up == 1 for axis in conv.axes) and _share(conv) < conv.ci // conv.groups


def _share(conv: Conv) -> int:
    """Channels of a pass; if possible, all passes have as many."""
    ci, taps = conv.ci // conv.groups, prod(axis.kernel for axis in conv.axes)
    if ci * taps <= DEEP or ci <= LEAST:
        return ci
    wanted = -(-ci * taps // WANTED)
    for count in range(wanted, 2 * wanted):
        if ci % (count * UNROLL) == 0 and ci // count >= LEAST:
            return ci // count
    share = max(LEAST, -(-ci // wanted))
    return min(ci, -(-share // UNROLL) * UNROLL)
