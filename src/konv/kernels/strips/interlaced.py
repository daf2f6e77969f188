"""Few channels that lie side by side, as in photographs, seen as one plane: the numbers of a row
are its columns.

    [row][column][channel]    one channel, rows `channels` times as wide, taps as many times as far
                              apart; from lane to lane another channel's weights

So lanes are full whatever the channels are, and loads cross no gaps. What a vector multiplies with
hangs on where it begins: of each tap the weights of all channels follow each other in turn,
`channels` - 1 more than a vector has, and a vector reads from its own channel on. Zen 3, two
threads, ms beside what was fastest before (konv.kernels.planar):

    3x3 3@512x512     0.20  1.55     5x5 3@1080x1920    3.8  18.1     3x3 7@256x256   0.10  0.68
    3x3 3@64x64       .006  .031     1x5 3@1080x1920    2.3  10.6     11x11 3@512x512  2.1   3.8
"""

from __future__ import annotations

from dataclasses import replace

from konv.geometry import Axis, Conv
from konv.plan import Strides
from konv.target import Target

# Multiply-adds of a tile up to which all taps are unrolled: 11x11 of four rows takes 146 ms to emit
# and compile.
UNROLLED = 500


def fits(conv: Conv, target: Target) -> bool:
    """Whether a layer may be computed so: one filter a channel in steps of one along the rows,
    padding of zeros, fewer channels than fill a vector (8 and more as channels in the lanes: 3x3
    8@256 .107 ms, so .161; 12@256 .24 and .27, 20@112 .060 and .075).
    """
    few = conv.co == conv.ci < target.lanes(conv.dtype)
    return few and conv.dims > 1 and conv.axes[-1].stride == 1 and conv.mode == "zeros"


def as_plane(conv: Conv) -> Conv:
    """The layer of one channel whose columns are the numbers of a row.

    >>> str(as_plane(Conv.parse("conv2d 1x3x9x8 o3 k3 p1 g3")))
    'conv2d 1x1x9x24 o1 k3 p1x3 d1x3'
    """
    many, *_, last = conv.co, *conv.axes
    wide = Axis(
        last.size * many,
        last.kernel,
        dilation=last.dilation * many if last.kernel > 1 else 1,
        lo=last.lo * many,
        hi=last.hi * many,
    )
    return replace(conv, ci=1, co=1, groups=1, axes=(*conv.axes[:-1], wide))


def as_rows(strides: Strides) -> Strides:
    """Where the numbers of such a plane lie; neighbours in a row are so everywhere."""
    return (*strides[:-1], 1)
