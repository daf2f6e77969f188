"""Which tiles Winograd's convolution has for a layer, and whether they pay: the multiplications
saved against the transforms and against reading U, the transformed weights, which are more.
"""

from __future__ import annotations

from math import prod

from konv.geometry import Axis, Conv
from konv.kernels.pack import TRANSFORMED
from konv.kernels.winograd.count import count, three
from konv.kernels.winograd.transforms import Transform
from konv.target import BYTES

LEAST = 16  # channels of a group, in and out

# Outputs of a part of a tile along an axis, by taps, stride and `up`. 4 of 5 taps in steps of one
# are 8 points: 64 products for 16 outputs, which take 87 if a tile has 3 and 144 if it has 2
# (96->256@27 in 2 groups 0.90 ms, 1.06, 1.46; 64@56 1.00, 1.62; 128@7 0.145, 0.206; Zen 3).
OUTPUTS = {
    (3, 1, 1): (4, 2),
    (5, 1, 1): (4, 2),
    (3, 2, 1): (4, 2),
    (4, 2, 1): (4, 2),
    (5, 2, 1): (4, 2),
    (3, 1, 2): (4, 2),
    (4, 1, 2): (4, 2),
    (5, 1, 2): (4, 2),
}

# The same of dilated layers: an interleaved axis has few outputs, and tiles of 3 leave none empty
# where it has 3, 5 or 6 (256@65 dilated by 12, 5 or 6: 15.3 ms, on tiles of 4 22.9; 2048->256@33
# by 12, 2 or 3: 34.8 and 54.8; Zen 3).
DILATED = {(3, 1, 1): (4, 3, 2)}

# Multiplications saved that pay for the transforms, at least: 128@5 saves 1.56 and is 10 % slower,
# conv1d 64@4096 of 5 taps saves 1.67 and is 20 % faster, 256@65 dilated by 12 1.83 and 12 %.
# In steps of two the ways without tiles are further from their peak, and the models tell which is
# faster: 3x3 128->256@16 saves 1.44 with tiles of 2, which take 0.25 ms, direct 0.28 (Zen 3).
# Of a sequence 3 taps save 1.33, and a tile is soon transformed: k3 s2 of 512@1599 takes 7.3 ms,
# direct 9.0, 512@399 2.0 and 2.4, 256@4001 5.1 and 5.5, 1024@801 13.9 and 17.3; 1x3 of maps, whose
# rows are short, was no faster (256@28 1.31 and 1.16, 64@112 1.22 and 1.10; Zen 3).
SAVING, STEPS_SAVING, SEQUENCE_SAVING = 1.6, 1.4, 1.3

# Bytes of U for each tile that no saving pays for, but of tiles that SAVES is for: 1024@28 has 2.3
# MiB and is 2.5 times as fast as without tiles; 512@7 with tiles of 4 has 9 and is slower than with
# those of 2, which have 1.
EACH = 5 * 2**19
# The same in steps of two, where less is saved than in steps of one, and bytes that pay anyway:
# 256@28, 0.3 MiB each and 20 in all, is 8 % slower; transposed 512->256@8 pays with tiles of 2, as
# many each and 18 in all, and not with those of 4, 3 MiB each (2.5 ms, 1.3 with tiles of 2, 1.7
# without; Zen 3).
STEPS_EACH, STEPS_FEW = 2**18, 19 * 2**20
# Multiplications that a number of U saves where tiles of 2 pay, however many bytes U has: no fewer
# than are done while it arrives from beyond the second-level cache. In steps of one 3x3 1280@8
# saves 20, 8.9 to 5.4 ms, 1024@8 6.1 to 3.0, 1024@7 12, 4.6 to 2.7, 2048->512@7 4.6 to 2.7 (1024@5
# 5, 2.4 to 2.2, @4 2.2 to 2.7; AVX2 code 14 to 6.4, 9.8 to 4.2, 8.0 to 3.9), in steps of two
# transposed 4x4 1024->256@16 50, 8.7 to 5.3, 512@8 12, 2.9 to 2.0, 5x5 1024->256@16 67, 19.4 to
# 8.8; 4x4 1024->512@32 50, 20 to 14, 3x3 512@28 21, 5.0 to 4.0, 512@14 2, 1.5 to 1.6 (AVX2 code
# 16 to 10, 5.4 to 3.0, 34 to 16, 7.4 to 5.7; Emerald Rapids). Tiles of 4 save more, for up to three
# times the bytes, and are no faster there.
SAVES = 11


def outputs_of(conv: Conv) -> tuple[int, ...]:
    """Of a part of a tile, every size that is considered."""
    axis = _axis(conv)
    steps = axis.kernel, axis.stride, axis.up
    return DILATED.get(steps, OUTPUTS[steps]) if is_dilated(conv) else OUTPUTS[steps]


def is_dilated(conv: Conv) -> bool:
    """Whether tiles lie on interleaved axes."""
    return any(axis.dilation > 1 and axis.kernel > 1 for axis in three(conv)[1:])


def _axis(conv: Conv) -> Axis:
    """An axis that is transformed; others are like it, or have one tap."""
    return max(three(conv)[1:], key=lambda axis: axis.kernel)


def by_one(conv: Conv) -> bool:
    """Whether it moves in steps of one, of its input and its output."""
    return _axis(conv).stride == _axis(conv).up


def too_little(conv: Conv, m: int) -> str | None:
    """Why tiles of m outputs a part do not pay at this image size."""
    deep, *plane = three(conv)
    pairs = [(axis, Transform.of(axis, m)) for axis in plane]
    tiles, points = prod(count(*pair) for pair in pairs), prod(t.n for _, t in pairs)
    saved = prod(axis.out * axis.kernel / axis.up for axis, _ in pairs) / (tiles * points)
    # Planes of padding are multiplied here, which others leave out.
    saved *= deep.taps(conv.mode) / (deep.out * deep.kernel)
    steady = by_one(conv)
    steps = SEQUENCE_SAVING if conv.dims == 1 else STEPS_SAVING
    least = SAVING if steady else steps
    if saved < least:
        return f"would save a factor of {saved:.1f} of the multiplications, less than {least}"
    tiles *= deep.out
    size = points * conv.ci // conv.groups * conv.co * deep.kernel * BYTES[conv.dtype]
    worth = m == min(outputs_of(conv)) and (saved - 1) * tiles >= SAVES
    most = EACH * tiles if steady else max(STEPS_EACH * tiles, STEPS_FEW)
    most = max(most, TRANSFORMED * worth)
    if size > most:
        return f"would read {size / 2**20:.0f} MiB of transformed weights for {tiles} tiles"
    return None
