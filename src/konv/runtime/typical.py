"""The size at which an image of a layer is seen when a plan is chosen.

One of few, so that a layer has few plans over all sizes: a new size compiles nothing, but for what
is chosen for the image itself (konv.runtime.choose).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import ceil, floor, prod

from konv.errors import ProblemError
from konv.geometry import Axis, Conv

# Outputs of a channel: of small images, at most of those, of middling ones, at most of those, of
# large images. What is best for a layer changes about there: below, it is mostly its weights, and
# tiles of pixels are not full. Of a transposed layer, the outputs from one input to the next count
# as one. Maps of 8 x 8 and 10 x 10 seen as 32 x 32 took tiles of 4 whose weights are twice as many
# as those of 2: 3x3 384@8 1.14 ms, not 0.68, 512@10 2.5, not 1.8; transposed 4x4 256->128@8 0.76,
# not 0.56 (Zen 3). Those in steps of two fill tiles at 8 x 8, but not at 7 x 7. Flat volumes of so
# many are seen as such: as large cubes 512@2x7x7 took tiles, most of which are padding and weights
# (4.9 ms, without 2.6; 3x1x1 .48 and .31), as small cubes depthwise and grouped ones what is 1.2 to
# 2.4 times slower. Others count as large: 64@4x4x5 .036 ms, seen as flat .063, 16@4x4x4 of 5 taps
# .014 and .036 (Granite Rapids). Sequences are large above MIDDLE, unless depthwise
# (512@80 k7 17 us, 26 if they were): what goes by products of transforms is compared at its own
# size then (128@80 k11 136 to 73 us, 512@200 k3 s2 .79 to .68 ms; Emerald Rapids).
SMALL, BETWEEN, MIDDLE, ABOVE, LARGE = 49, 60, 64, 100, 1024
FLAT = 2, 7, 7
# Large volumes: cubes of 10 left a third of Winograd's tiles empty, which those of networks, of
# fewer slices, do not (16->16@16x28x28 .85 to .49 ms, Emerald Rapids).
VOLUME = 7, 12, 12
# Up to SCANT outputs count as 3 x 3: a tile of transforms has more numbers than the taps it saves
# (3x3 of 512@2 .43 to .25 ms, 8 images .55 to .45; 128@3 38 to 26 us, 5x5 512@3 1.6 to 1.1 ms), and
# so do up to NARROW of a layer in groups, unless those are of too few channels to fill vectors
# alone (512@4 in 8 groups .10 to .05 ms, 8 images .72 to .28, depthwise contiguous 28 to 13 us; of
# 16 channels each, in steps of two, 29 to 40). Dense ones of 4 x 4 are as fast with transforms in
# the mean of one image and of 8 (512@4 .49 and .43, 8 images 1.4 and 2.1; Emerald Rapids).
TINY, SCANT, NARROW, FILLED = 9, 12, 16, 32
# Of depthwise layers of so many taps along both axes images of so many outputs at most count as
# 14 x 14: most taps meet padding in some rows. Others count as 56 x 56: many are larger, and hardly
# any but rows of 32 fill vectors of 16 (13x13 contiguous 64@56: planes .265 ms, pencils .217; 9x9
# 384@14 .104 and .047, 192@28 .108 and .084, 11x11 384@14 channels-last upright .090, pencils .050,
# 7x7 .038 and .029; AVX-512).
MANY, HALF, NEARLY, WHOLE = 7, 196, 500, 3136
# Outputs of an axis for each pixel from tap to tap, up to which the image counts as small: most
# taps meet padding, and tiles of interleaved axes would be mostly empty. With 1024 outputs in mind
# 2048->256@17 dilated by 12 was given such tiles, 403 ms instead of 48; 256@28 36.8 and 24.4, @40
# 4.4 and 7.0; 256@20 by 8 2.5 and 1.5, @23 2.5 and 2.5; 256@11 by 4 0.56 and 0.62 (Zen 3).
APART = 2.5
# Up to how many of these an image that is not small counts as having how many. Winograd's tiles lie
# on the interleaved axes, which have so many outputs: one tile of 3, one of 4, two of 3; then tiles
# of 4 need no more products than others, or hardly more. At 1024 outputs 256@65 dilated by 12 would
# be seen with 2 or 3, where it has 5 or 6: 22.9 ms on tiles of 4, 15.3 on those of 3 (Zen 3).
SPREADS = ((3.2, 2.8), (4.6, 3.9), (6.4, 5.5))
WIDE = 8.0  # what others have at least: two tiles of 4
# Axes of up to so many outputs count as so many where others have more: images of one row, bands of
# spectrograms, volumes of few slices; the others share about THIN outputs. Seen as squares, 1026
# such images of 27 layers were modelled 1.25 times slower than need be in the mean, 12 times at
# worst, so 1.01 (Emerald Rapids).
FEW = (1, 1), (2, 2), (4, 4), (6, 5)
THIN = 784
GROWTHS = 40  # doublings: beyond any padding that the largest image could fill


def typical(conv: Conv) -> Conv:
    """The same layer at one of four sizes, so that it has at most four plans over all sizes; of
    many taps there are five, of a dilated layer large ones are several. Images that are thin along
    some axes have sizes of their own.
    """
    size = _size(conv)
    if size == LARGE:
        return _large(conv, _spread(conv))
    return _at_thin(conv, _thin(conv)) if size == THIN else _at_size(conv, size)


def sizes(conv: Conv) -> list[Conv]:
    """The layer at every size at which it may be seen, large ones last."""
    small = [TINY, SMALL, MIDDLE]
    small += [HALF] if of_many_taps(conv) else []
    outs = product((0, *(few for _, few in FEW)), repeat=conv.dims)
    bands = [_at_thin(conv, each) for each in outs if any(each) and not all(each)]
    large = [_large(conv, spread) for spread in _spreads(conv)]
    return [_at_size(conv, size) for size in small] + bands + large


def _thin(conv: Conv) -> tuple[int, ...]:
    """As how many outputs each axis counts, 0 if it has many."""
    outs = [axis.out / axis.up for axis in conv.axes]
    return tuple(next((few for most, few in FEW if out <= most), 0) for out in outs)


def of_many_taps(conv: Conv) -> bool:
    """Whether a layer has one channel in and out a group, two axes of MANY taps and no steps."""
    plain = all((axis.stride, axis.dilation, axis.up) == (1, 1, 1) for axis in conv.axes)
    alone = conv.ci == conv.co == conv.groups
    return plain and alone and conv.dims == 2 and all(a.kernel >= MANY for a in conv.axes)


def _size(conv: Conv) -> int:
    """TINY: hardly any outputs; SMALL: few, or taps that lie too far apart for them, whatever their
    number; THIN, MIDDLE, HALF or LARGE.
    """
    outputs = prod(axis.out / axis.up for axis in conv.axes)
    share = conv.ci // conv.groups
    if outputs <= (NARROW if conv.groups > 1 and (share == 1 or share >= FILLED) else SCANT):
        return TINY
    few = _thin(conv)
    band = any(few) and not all(few)
    many = [axis for axis, some in zip(conv.axes, few, strict=True) if not (band and some)]
    if any(a.dilation > 1 and a.out / a.up <= APART * a.dilation for a in many):
        return SMALL
    if outputs <= BETWEEN:
        return SMALL
    if band and (few.count(0) == 1 or outputs > ABOVE):
        return THIN
    cube = conv.dims == len(FLAT) and min(axis.out / axis.up for axis in conv.axes) > FLAT[0]
    if outputs <= (MIDDLE if conv.dims == 1 and share > 1 else ABOVE) and not cube:
        return MIDDLE
    return HALF if outputs <= NEARLY and of_many_taps(conv) else LARGE


def _at_size(conv: Conv, size: int) -> Conv:
    """The layer with about so many outputs, of a transposed axis from one input to the next."""
    side = _side(size, conv.dims)
    sides = FLAT if size == MIDDLE and conv.dims == len(FLAT) else [side] * conv.dims
    return _at(conv, [side * axis.up for side, axis in zip(sides, conv.axes, strict=True)])


def _at_thin(conv: Conv, few: tuple[int, ...]) -> Conv:
    """The layer with so many outputs along each axis, of a transposed one from one input to the
    next; axes of 0 share what makes about THIN of them.
    """
    side = _side(THIN // prod(filter(None, few)), few.count(0))
    wide = [max(side, ceil(WIDE * a.dilation)) if a.dilation > 1 else side for a in conv.axes]
    outs = [some or most for some, most in zip(few, wide, strict=True)]
    return _at(conv, [out * a.up for out, a in zip(outs, conv.axes, strict=True)])


def _side(size: int, dims: int) -> int:
    """Of a square or cube of so many outputs."""
    root: float = size ** (1 / dims)
    return max(1, floor(root))


def _spread(conv: Conv) -> float:
    """That at which a large layer is seen."""
    apart = [a.out / (a.up * a.dilation) for a in conv.axes if a.dilation > 1]
    counts = (count for most, count in SPREADS if apart and min(apart) <= most)
    return next(counts, WIDE)


def _spreads(conv: Conv) -> list[float]:
    """Those at which a large layer may be seen."""
    dilated = any(axis.dilation > 1 for axis in conv.axes)
    return [*(count for _, count in SPREADS if dilated), WIDE]


def _large(conv: Conv, spread: float) -> Conv:
    """The layer at the typical size of large images, its dilated axes so many distances of taps
    wide; of a transposed axis as many outputs as of any other, but at least half as many inputs,
    lest tiles of inputs be less full than they mostly are.
    """
    side = _side(WHOLE if of_many_taps(conv) else LARGE, conv.dims)
    sides = VOLUME if conv.dims == len(VOLUME) else [side] * conv.dims

    def outputs(axis: Axis, side: int) -> int:
        usual = side if axis.up == 1 else max(side, side // 2 * axis.up)
        if axis.dilation == 1:
            return usual
        wide = ceil(spread * axis.dilation) * axis.up
        return max(usual, wide) if spread == WIDE else wide

    return _at(conv, [outputs(*each) for each in zip(conv.axes, sides, strict=True)])


def _at(conv: Conv, outputs: list[int]) -> Conv:
    """One image of the layer with about so many outputs along each axis.

    A padding mode may need more pixels than that to fill from: then the layer is larger.
    """
    for _ in range(GROWTHS):
        try:
            sized = (_sized(*each) for each in zip(conv.axes, outputs, strict=True))
            return replace(conv, n=1, axes=tuple(sized))
        except ProblemError:
            outputs = [2 * out for out in outputs]
    return conv.with_batch(1)


def _sized(axis: Axis, out: int) -> Axis:
    """The axis with about so many outputs."""
    size = ((out - 1) * axis.stride + axis.extent - axis.lo - axis.hi - 1) // axis.up + 1
    return axis.with_size(max(1, size))
