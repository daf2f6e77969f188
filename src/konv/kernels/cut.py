"""How a layer is cut into units of work: a box of output pixels and a chunk of output channels.

Nothing here changes a result. What a unit holds is a matter of caches, of threads that should
finish together, and of tiles that should be full, which pull in different directions: so every cut
worth considering is priced, and the cheapest taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

from konv.geometry import Conv
from konv.kernels.channels import Channels
from konv.kernels.lines import Line, boxes_of
from konv.kernels.passes import Passes
from konv.plan import Plan
from konv.target import COMPUTED, Target

PIXELS = 256  # of a unit at most (packed: twice): its tables stay in the first-level cache
FEWEST = 48  # pixels below which more units are no gain
TABLES = 4 * 1024 * 1024  # bytes of addresses beyond which a unit is cut down to a single tile
SUMS = 1024 * 1024  # bytes of sums between passes, likewise
# Fields of an output that a packed image may hold though the cache does not (Zen 3: of 768@499 k128
# p64 g16, 384 KB each, one was packed for each output: 566 ms, now 38; 31x31 of 64@56 375, now 162;
# three or four fields are no faster).
FIELDS = 2
# Prices in cycles of a core (Emerald Rapids; only their ratios matter): of a unit, a number packed
# (Zen 3, from the last cache; with 0.6, five chunks each packed 480->80@14 anew: 0.23 ms, now
# 0.16), a number out through a block, an address; bytes a cycle of weights that a core's
# second-level cache does not hold from one unit to the next.
UNIT, PACKED, OUT, ADDRESS, STREAMED = 3000, 1.0, 0.7, 1.5, 5
# Of a row, or part of a row, that is packed: memory sends what follows at once, but not its first.
PIECE = 200
# Times the mean that a chunk may be large without a price: 16 chunks, as even as may be, of 7x7
# 512->4096@22 instead of two took 1.1 times as long (AVX2 code, Granite Rapids).
EVEN = 1.05
ROW = 30  # of a row, or part of a row, of results: boxes of two columns took 1.1 times as long
# So many times as much a number costs where the slots of a row are no neighbours: pixel by pixel
# (64 channels of 16000, dilation 512: 5.1 ms, densely packed 3.8, though twice as many, Zen 3).
SCATTERED = 5
# Bytes a cycle of an image that is not packed, and the bytes beyond which it comes from memory, no
# faster than such weights (1x1 1024->256@65, 17 MB, a block of channels at a time: 72 % of the
# peak, now 97, Zen 3).
READ, HELD = 12, 8 * 1024 * 1024


@dataclass(frozen=True)
class _Layer:
    """What prices are made of; beside the box there are hundreds of those to choose from, so what
    they have in common is worked out once: a first call takes 2 ms less.
    """

    conv: Conv
    plan: Plan
    target: Target
    lines: list[Line]
    channels: Channels
    passes: Passes
    threads: int
    in_rows: bool
    in_place: bool

    @cached_property
    def taps(self) -> int:
        return prod(line.reach for line in self.lines)

    @cached_property
    def phases(self) -> float:
        """As many as have the pixels of the largest."""
        return prod(sum(p.count for p in line.phases) / line.count for line in self.lines)

    @cached_property
    def reduction(self) -> int:
        channels, runs = self.channels, prod(line.run for line in self.lines)
        return channels.groups * (channels.ci if channels.summed else 1) * self.taps * runs

    @cached_property
    def vectors(self) -> float:
        """Of output channels of a group; a narrow tile is bound by loads."""
        channels, plan = self.channels, self.plan
        tail = max(channels.tail, (plan.pixels + channels.tail) / plan.pixels)
        return channels.blocks * plan.vectors + tail * (channels.tail > 0)

    def largest(self, blocks: int) -> float:
        """Vectors of the largest of chunks of so many blocks: not of the one that has the tail."""
        return min(blocks * self.plan.vectors, self.vectors)

    @cached_property
    def weights(self) -> int:
        """Bytes."""
        return self.conv.params * COMPUTED[self.plan.dtype]

    @cached_property
    def streams(self) -> bool:
        return streams(self.conv, self.plan, self.target)

    @cached_property
    def field(self) -> int:
        """Bytes that a packed image has for a single output: there is no smaller one."""
        slots = prod(line.fewest for line in self.lines)
        return slots * self.passes.held * COMPUTED[self.plan.dtype]

    @cached_property
    def image(self) -> int:
        """Bytes of the input."""
        return prod(self.conv.in_shape) * COMPUTED[self.plan.dtype]


def streams(conv: Conv, plan: Plan, target: Target) -> bool:
    """Whether weights are more than a core's second-level cache holds beside the rest."""
    return conv.params * COMPUTED[plan.dtype] > target.l2 * 3 // 4


def cut(
    conv: Conv,
    plan: Plan,
    target: Target,
    lines: list[Line],
    channels: Channels,
    passes: Passes,
    threads: int,
    in_lines: bool = False,
    in_rows: bool = False,
    in_place: bool = False,
) -> int:
    """Choose the boxes; returns how many blocks of output channels one unit takes. `in_lines`:
    boxes are as wide as the image, parts of a single row if that is too much. `in_rows`: no tile
    goes beyond a row, and there are no tables. `in_place`: of a packed image it is both ends of
    its rows that are packed.
    """
    layer = _Layer(conv, plan, target, lines, channels, passes, threads, in_rows, in_place)
    best: tuple[float, tuple[int, ...], int] | None = None
    along = in_rows and lines[2].dense
    most = 4 * PIXELS if along else 2 * PIXELS if plan.packed else PIXELS
    for boxes in boxes_of(lines, most, plan.packed and not in_rows, in_lines):
        for line, box in zip(lines, boxes, strict=True):
            line.cut(box)
        for blocks in _chunks(channels.all_blocks):
            price = _price(layer, blocks)
            if best is None or price < best[0]:
                best = price, boxes, blocks
    assert best is not None
    for line, box in zip(lines, best[1], strict=True):
        line.cut(box)
    return best[2]


def _chunks(blocks: int) -> list[int]:
    """Blocks in a chunk that are worth considering: all, a half, a quarter, down to one."""
    found = {-(-blocks // pieces) for pieces in (1, 2, 4, 8, 16, 32)}
    return sorted(found, reverse=True)


def _price(layer: _Layer, blocks: int) -> float:
    """Cycles from the first to the last unit, on all threads."""
    conv, plan, lines, channels = layer.conv, layer.plan, layer.lines, layer.channels
    a, b, c = lines
    pixels, slots = a.box * b.box * c.box, a.slots * b.slots * c.slots
    taps, phases, size = layer.taps, layer.phases, COMPUTED[plan.dtype]
    chunks = -(-channels.all_blocks // blocks)
    units = chunks * conv.n * a.boxes * b.boxes * c.boxes
    rows = pixels // lines[2].box if layer.in_rows else 1
    tiles = rows * -(-pixels // rows // plan.pixels)
    mean = layer.vectors / chunks
    over = max(0, layer.largest(blocks) - EVEN * mean)
    vector = phases * tiles * layer.reduction * plan.pixels / 2  # of output channels, all pixels
    addresses = 0 if layer.in_rows else tiles * (plan.pixels + 1) * taps
    unit = mean * vector + phases * ADDRESS * addresses + UNIT + ROW * (pixels // c.box)
    lanes, wide = layer.target.lanes(plan.dtype), lines[2].boxes == 1
    row = lines[2].slots if wide else _lines(lines[2].slots, lanes)
    if layer.in_place:
        row = min(row, plan.pixels * lines[2].jump + lines[2].span)
    number = PACKED * (SCATTERED if lines[2].sparse else 1)
    unit += (number * row * conv.ci + PIECE) * (slots // lines[2].slots) * plan.packed
    row = lines[2].box if wide else _lines(lines[2].box, lanes)
    unit += OUT * phases * pixels // lines[2].box * row * conv.co / chunks * plan.blocked
    if layer.streams:
        unit += layer.weights / chunks / STREAMED
    if not plan.packed:
        unit += _read(layer, blocks, plan.vectors * lanes * layer.reduction * size)
    rounds = -(-units // layer.threads)
    # Threads help one another: of many rounds only the last is one of large chunks.
    price = rounds * unit + over * vector * (rounds if rounds <= 2 else 1)
    few = pixels < FEWEST and units > layer.threads
    image = slots * layer.passes.held * size if plan.packed else 0
    image *= blocks > 1 or not layer.in_place
    sums = pixels * channels.groups * blocks * plan.vectors * lanes * size
    # More than there is room for: in caches for the packed image, at all for tables and sums.
    room = max(layer.target.l2 * 2 / 5, FIELDS * layer.field)
    crowd = max(image / room, 8 * taps * pixels / TABLES)
    if layer.passes.count > 1:
        crowd = max(crowd, sums / SUMS)
    crowded = crowd > 1 and pixels > plan.pixels
    return price * (1 + 0.2 * few) * (1 + 9 * crowd * crowded)


def _read(layer: _Layer, blocks: int, block: int) -> float:
    """Cycles for the image of a unit, where it is not packed: read once if it stays in the
    second-level cache beside the weights of a `block`, else for each block; at no price if all of
    the image stays there. What overlaps the box before it is still there.
    """
    channels, every, (a, b, c) = layer.channels, layer.image, layer.lines
    if every <= layer.target.l2:
        return 0
    pixel = layer.conv.ci * COMPUTED[layer.plan.dtype]
    image = pixel * a.sources * b.sources * c.sources
    first = pixel * a.fresh * b.fresh * c.fresh / (READ if every <= HELD else STREAMED)
    if channels.summed and image // channels.groups + block > layer.target.l2:
        return first + image * (blocks - 1) / READ
    return first


def _lines(pixels: int, lanes: int) -> int:
    """Pixels of the cache lines that a part of a row touches: of 7, often 32."""
    return (-(-pixels // lanes) + 1) * lanes
