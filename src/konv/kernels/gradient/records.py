"""The records that the kernels of weight gradients work from.

A layer is seen as an ordinary one (a transposed one by its adjoint), of outputs `p` that read a
source for each of their taps. `rows` are the pairs (channel, tap) in the order of the weight: row r
of a group is channel r // taps, tap r % taps. Outputs are taken in *boxes*, at most so many images
by so many outputs an axis, in an order that depends on sizes alone; so do the *parts*, runs of
boxes, whose sums are added up at the end. What shares a part's work out is free: ranges of output
channels and of input channels.
"""

from __future__ import annotations

from konv.kernels.words import per_axis

JOB = (
    "units",  # parts x groups x ranges of output channels x ranges of input channels
    # 2: the last run of konv.kernels.gradient.apart; 1: the second run of others,
    "adding",  # which adds up what the parts have left; units of `piece` numbers
    "piece", "numbers",  # of the whole weight
    "parts", "boxes", "images", "image_boxes",  # images in a box
    "n", "groups", "ci", "co", "taps",  # channels of a group
    "w_last",  # 1 if the weight lies channels-last
    "blocks", "tail",  # full blocks of output channels; vectors in one more, other block
    "ranges_co", "blocks_each", "ranges_ci", "ci_each",
    "x_first", "dy_first",  # bytes of x and dy before those that are read
    "x_batch", "x_channel", "y_batch", "y_channel",
    "in_a_row",  # 1 if the slots of a row are neighbours in the image
    "pitch", "face", "volume", "plane",  # numbers in a row of a strip, a depth, an image, a channel
    # axes from the last on whose boxes are whole, and whose pixels lie in one run, too
    "x_whole",
    "whole",  # axes from the last on whose boxes are whole: outputs there lie in one run
    "padded_rows",  # rows of a block of sums; planar: vectors of sums of a group
    # planar: groups in a unit, numbers in a row of one phase, in a channel of dy
    "groups_each", "half", "panel",
    "in_place",  # planar: 1 if dy is read as it lies
    # pencils: vectors of channels, in a unit; outputs of a row that a vector takes before the next
    # does; 1 if the next row is to be asked for in advance
    "lines", "lines_each", "segment", "far",
    # winograd: 0 to 3: points, products, taps, the last two in one; tiles of the run, number of its
    # first, its first box; 1 if products begin anew; tiles in a row, in an image
    "step", "tiles", "base", "box", "fresh", "row_tiles", "image_tiles",
    # output channels at hand: first block, vectors of a group; vectors of its input channels
    "chunk", "vectors_co", "vectors_ci",
    # numbers of a pixel in copies; pixels in a row of the copy of dy, in an image
    "wide", "pitch_dy", "volume_dy",
    # numbers from vector to vector in V and D, from point to point in V, D and U
    "vector", "v_point", "d_point", "u_point",
    "at_taps",  # word where the places of taps in a strip begin
    # bytes into the scratch memory, behind that of all threads; 0: there are none of these
    "partial",  # where the sums of parts begin
    "at_v", "at_d", "at_u",  # winograd
    "thread_bytes", "at_pixels", "at_strip", "at_panel", "at_sums",
    "at_rows", "at_zeros", "at_beside",
    "at_copy", "at_own",
    *per_axis(
        "outs", "dilation",  # winograd: outputs of an axis, whose tiles are counted; between taps
        "size", "x_stride", "y_stride", "count", "box", "axis_boxes", "jump", "least", "ahead",
        "first_slots", "at_raws", "at_slots",
    ),
)  # fmt: skip

UNIT = (
    "x", "y", "scratch",  # addresses: first image of a box, its gradients; the thread's scratch
    "group", "groups", "block0", "block1",
    "channel", "channels",  # of the input: first, and how many
    "images", "pixels",  # of the box at hand; planar: vectors of outputs
    # planar: numbers in a row of the panel; where it is, numbers from channel to channel
    "across", "panel", "panel_step",
    # pencils: vectors of channels, from and to; outputs of a row in tiles, likewise, and of
    # those beside them
    "line0", "line1", "inner0", "inner1", "beside",
    "tile",  # winograd: number of the box's first, counted from those at hand
    *per_axis(
        "spread",  # winograd: outputs from that of its first tile to that of its last
        "length", "raw", "slots",
    ),
)  # fmt: skip
RECORDS = (JOB, UNIT)
