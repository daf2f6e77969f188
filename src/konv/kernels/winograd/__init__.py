"""Winograd's convolution: fewer multiplications where a small kernel moves by steps of one or two.

An m x m tile of outputs of an r x r kernel takes (m + r - 1)**2 products a pair of channels
instead of m * m * r * r: F(4x4, 3x3) 36 instead of 144, F(4x4, 5x5) 64 instead of 400, F(4, 3) of a
sequence 6 instead of 12 (konv.kernels.winograd.points). In steps of two, of the output or of a
transposed layer's input, each step's taps are a kernel of steps of one: 4 x 4 outputs of 3 x 3 taps
take 81 instead of 144 products, 8 x 8 transposed ones of 4 x 4 taps 100 instead of 256
(konv.kernels.winograd.transforms). At each point they are a product of matrices:

    V = B' d B     tiles by input channels       channels in the lanes; once for each tile
    M = V U        for each of the points        U = G g G', packed (konv.kernels.winograd.weights)
    y = A' M A     and the bias                  output channels in the lanes

A unit of work is a box of tiles, so V and M stay near while U passes by
(konv.kernels.winograd.units has the loops, konv.kernels.winograd.parts the three steps,
konv.kernels.winograd.cut chooses boxes). A dilated layer is dilation x dilation interleaved ones:
pixels of a tile lie that far apart, all else is addresses (konv.kernels.winograd.tables); as these
are often small, tiles of 3 x 3 outputs may fill them better, which take 25 products for 81. A
transposed layer of stride 1 is the same map with its weights stored otherwise. Of a volume each
plane has its tiles, and the taps across planes are more channels to sum over.

Bits. Tiles are anchored at output 0 and computed whole; beyond what its outputs need a tile sees
zeros. So a result depends on its tile's inputs only, and a crop equals the crop of the whole from
a multiple of `alignment` on, wherever it holds all that the tile reads. Every sum over channels is
one chain. Padding is zeros in a tile like any others: no tap is left out.

What differs from a plain sum of products. Rounding grows with the points: `rounding.ROUNDING` has
the bound. A NaN or an infinity in the input reaches every output of its tile, up to m - 1 beyond
its receptive field (2 m - 1 of a transposed layer of stride 2); numbers within a factor of 1000 of
the largest float may overflow in a tile; an infinite or NaN weight leaves no output of its channel
finite, of a transposed layer of stride 2 none at its step. `precision("exact")` keeps this
algorithm out.

Measured, in ms on two Sapphire Rapids cores (352 GFLOP/s), contiguous / channels-last, everything
included, beside konv's direct kernel:

    64@224 3x3         6.6 / 4.4    direct 14.3 / 12.4      64@56 3x3        .42 / .32   .91 / .78
    256@56 3x3         5.1 / 4.6           12.6 / 11.8      128@28 3x3       .40 / .39   .93 / .78
    256@64 dilated 2   6.1 / 5.3           15.9 / 14.7      256@14 3x3       .51 / .50   .97 / .89
    512@33 dilated 4   8.7 / 7.7           21.4 / 17.0      64->192@27 5x5   .87 / .78  1.78 / 1.66
    256@65 dilated 12 14.1 / 11.7          20.4 / 13.1      conv1d 256@1024  .94 / 1.17 1.60 / 1.71

Of the 4.4 ms of 64@224 products take 2.8 (95 % of the peak), transforms the rest.
On two of Zen 3 (196 GFLOP/s):

    256@8x28x28 3x3x3   50 / 50    direct  145 / 129        64@16x32x32 5x5x5 48 / 41   105 / 89
    512@4x14x14 3x3x3   34 / 28            126 / 56         512@2x7x7 3x3x3  7.4 / 12  14.3 / 8.5
    144->64@16x56x56 3x1x1 27 / 19          41 / 35         64@56 1x3        .65 / .63   .90 / .90
"""

from __future__ import annotations

from dataclasses import replace
from math import lcm, prod

from konv.geometry import Conv
from konv.kernels.direct.tiles import tile_cost
from konv.kernels.pack import HEADER
from konv.kernels.winograd.cache import SHARED, SMALL
from konv.kernels.winograd.count import count, tail, three
from konv.kernels.winograd.cut import Model
from konv.kernels.winograd.pays import LEAST, OUTPUTS, by_one, is_dilated, outputs_of, too_little
from konv.kernels.winograd.records import TILES_JOB
from konv.kernels.winograd.schedule import schedule
from konv.kernels.winograd.transforms import Transform, form, transforms
from konv.kernels.winograd.units import emit_kernel
from konv.llvm import Module
from konv.plan import Blocks, Packing, Plan, Strides, Work
from konv.target import BYTES, Target

name = "winograd"
exact = False
once = False
words = TILES_JOB


# Input channels of a group beyond which wide register tiles come first: V is then read from the
# second-level cache, once for each block of output channels (512@33 dilated by 4, in boxes of 12
# tiles: 6 x 4 8.9 ms, 12 x 2 10.3). With 16 registers they always do: 4 x 3 is 1.2 times as fast as
# 6 x 2 on maps of 28 and 14 pixels, and never slower (Zen 3).
DEEP = 256

# Register tiles, tiles by vectors of output channels, by bytes in a vector and registers
# (konv.kernels.direct.tiles has the limits). Here pixels are neighbours in memory and cost one
# address, so that long tiles pay: on AVX-512 12 x 2 reads 8 bytes of U and V a cycle from the
# second-level cache, 6 x 4 23, and 16 tiles of a 14 x 14 image leave no rest.
TILES = {
    (16, 16): ((3, 3), (4, 2), (7, 1)),
    (32, 16): ((4, 3), (6, 2), (7, 1)),
    (16, 32): ((5, 4), (6, 3), (8, 2), (10, 1)),
    (64, 32): ((12, 2), (8, 3), (6, 4), (14, 1)),
}

USUAL = 2 * 1024 * 1024  # bytes of second-level cache that the model of cost takes

# Times that one vector of channels in and out takes with AVX-512 beside what the model says: 3x3
# 512@14 in 32 groups 0.21 ms (konv.kernels.abreast 0.125), 512@28 0.55 to 0.69 (0.47), 256@56 in
# 16 1.2 (0.95), 256@32 0.34 to 0.45 (0.34 to 0.37), 16->16@112 0.295 (planar 0.25; Granite Rapids).
# Of 25 taps and more they save more for as many loads: 5x5 64@28 in 4 groups .135 ms
# (spectrum .174), @56 .42 (.49), 16->16@112 .47 (.47), 3x3x3 16->16@16x28x28 .49 (direct .85), by
# 2.5 modelled 1.4 to 1.7 times those (Emerald Rapids).
NARROW, NARROW_OF_MANY, MANY = 2.5, 1.5, 25
# The same of volumes with taps along one axis, of so many vectors of channels in or fewer: 3x1x1
# 45->64@16x56x56 6.4 ms contiguous, direct 4.9, channels-last 4.3 and 3.7, 48->64@8x28x28 .72, .65,
# .45 and .42, 32->64@8x56x56 2.5, 1.9, 1.5 and 1.4; 64@8x56x56 3.5, 3.1, 2.4 and 2.5, 144 and 230
# channels .75 to .9 of direct; 1x3 and 3x1 of images of 32 and 48, .8 to 1.4, have no rule of their
# own (Emerald Rapids).
THIN, THIN_VECTORS = 1.7, 3


def why_not(conv: Conv, target: Target) -> str | None:  # noqa: ARG001 - as konv.plan.Algorithm
    """Only f32, kernels of 3 to 5 taps in steps of one or two, channels and tiles enough; of a
    volume the planes are in steps of one, with any number of taps across them.
    """
    if conv.dtype != "float32":
        return f"takes float32 only, for its rounding; here {conv.dtype}"
    ci, co = conv.ci // conv.groups, conv.co // conv.groups
    if min(ci, co) < LEAST:
        return f"takes {LEAST} channels in and out a group or more; here {ci} and {co}"
    deep, *plane = three(conv)
    if max(deep.stride, deep.up, deep.dilation) > 1:
        return "takes the planes of a volume in steps of one only"
    steps = {(a.kernel, a.stride, a.up) for a in plane} - {(1, 1, 1)}
    if len(steps) != 1 or not steps <= OUTPUTS.keys():  # 4 taps in steps of two only
        return "takes kernels of 3, 4 or 5 taps in steps of one or two, the same on every axis"
    for axis in plane:
        if max(axis.stride, axis.up) > 1 and axis.dilation > 1:
            return f"takes dilation in steps of one only; here {axis.dilation}"
    whys = [too_little(conv, m) for m in outputs_of(conv)]
    return whys[0] if all(whys) else None


def plans(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, ...]:
    """One plan for each size of tile, the largest that pays first, of a layer that is dilated or in
    steps of two the cheapest of those that pay, and register tile: where all sizes pay, tiles of 2
    read a third of the weights, and are faster on small maps (transposed 4x4 256->128@8 0.56 ms,
    of 4 0.75; @16 1.13 and 0.94; 3x3 in steps of two 128->256@28 0.72 and 0.84; Zen 3).
    """
    lanes = target.lanes(conv.dtype)
    vectors = -(-conv.co // conv.groups // lanes)
    table = TILES[target.vector_bytes, target.registers]
    wide = conv.ci // conv.groups > DEEP or target.registers == 16
    tiles = sorted(
        table,
        key=lambda tile: (-tile[1] if wide else 0, tile_cost(vectors, *tile), tile[1]),
    )
    found, priced = [], is_dilated(conv) or not by_one(conv)
    for m in outputs_of(conv):
        plane = three(conv)[1:]
        pair = [Transform.of(axis, m) for axis in plane]
        steps = [t.outputs * axis.dilation for t, axis in zip(pair, plane, strict=True)]
        both = form(*pair)
        those = [
            Plan(
                name, conv.dtype, packed, blocked, mr, nr, tail(vectors, nr), alignment=lcm(*steps),
                form=both,
            )
            for mr, nr in tiles
        ]  # fmt: skip
        # What does not pay stands last, not left out: plans are the same for any image size.
        price = cost(conv, those[0], target) if priced else 0.0
        found.append((too_little(conv, m) is not None, price, those))
    found.sort(key=lambda each: each[:2])
    return tuple(plan for *_, those in found for plan in those)


def cost(conv: Conv, plan: Plan, target: Target) -> float:
    """Modelled cycles of one core for one image, packed weights at hand: those of the best cut
    into boxes (konv.kernels.winograd.cut), and one to store a vector of results. Measured times are
    1.2 to 1.5 times that.
    """
    # Boxes as for any machine's cache: which plan is best shall not hang on it.
    wide = target.vector_bytes == 64
    model = Model(conv, plan, replace(target, l2=USUAL), SHARED if wide and by_one(conv) else SMALL)
    stores = conv.groups * model.vectors * prod(axis.out for axis in conv.axes)
    slower = 1.0
    if wide and model.vectors == 1 and model.ci <= model.lanes:
        taps = prod(axis.kernel for axis in conv.axes)
        slower = NARROW if taps < MANY else NARROW_OF_MANY
    elif wide and _is_thin(conv, model):
        slower = THIN
    return model.best(threads=1, n=1).cycles * slower + stores


def _is_thin(conv: Conv, model: Model) -> bool:
    """Whether it is a volume with taps along one axis, in steps of one, and few channels in."""
    one = conv.dims == 3 and conv.groups == 1 and sum(a.kernel > 1 for a in conv.axes) == 1
    return one and by_one(conv) and model.ci <= THIN_VECTORS * model.lanes


def work(conv: Conv, plan: Plan, target: Target, x: Strides, y: Strides, threads: int) -> Work:
    """Boxes of tiles as konv.kernels.winograd.schedule cuts them."""
    return schedule(conv, plan, target, x, y, threads)


def packing(conv: Conv, plan: Plan, target: Target) -> Packing:
    """Weights as konv.kernels.winograd.weights packs them."""
    co, ci, lanes = conv.co // conv.groups, conv.ci // conv.groups, target.lanes(plan.dtype)
    over, along = transforms(plan)
    each = over.n * along.n * ci * three(conv)[0].kernel + 1
    padded = -(-co // lanes) * lanes
    size = HEADER + conv.groups * padded * each * BYTES[plan.dtype]
    return Packing(size, conv.groups, co, ci)


def blocks(conv: Conv, plan: Plan, target: Target) -> Blocks:
    """Register tiles of tiles; what a tile has of outputs, all are counted as having."""
    lanes, ci = target.lanes(plan.dtype), conv.ci // conv.groups
    deep, *plane = three(conv)
    tiles = deep.out * prod(count(*pair) for pair in zip(plane, transforms(plan), strict=True))
    each = prod(t.outputs for t in transforms(plan))
    return Blocks(
        pixels=(tiles * each, plan.pixels * each),
        co=(conv.co // conv.groups, plan.vectors * lanes),
        ci=(ci, LEAST),
        groups=(conv.groups, 1),
    )


def emit(plan: Plan, target: Target) -> Module:
    """The module of a plan: `run` and `pack`."""
    return emit_kernel(plan, target, transforms(plan))
