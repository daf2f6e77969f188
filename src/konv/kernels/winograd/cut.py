"""How large a box of tiles a unit takes, by a model of what a unit costs; the same model says what
Winograd costs at all.

Few tiles a box: U, which passes by once for each box, is used seldom, and register tiles do not
fill. Many: V leaves the second-level cache, and the threads end unevenly. So every way to cut is
modelled, and the cheapest is taken. Nothing here changes a result.

Cycles were fitted on a core like a Sapphire Rapids (AVX-512, 2 MB of second-level cache).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import inf, prod

from konv.geometry import Axis, Conv
from konv.kernels.winograd.cache import Cache, cache_of
from konv.kernels.winograd.count import RESTS, count, three, widths
from konv.kernels.winograd.deal import Unit, at_last, at_least
from konv.kernels.winograd.transforms import transforms
from konv.plan import Plan
from konv.target import BYTES, Target

BOX = 64  # tiles of a box
PIECES, FEW = 8, 4  # ways to cut an axis that are tried, from the fewest boxes; of three axes
# A vector at a point, in and out: loads, stores, a sixth of two transforms; a product: the way in
# and out, its sums to M; products beside all that passes through the caches, by the cycles of their
# register tiles. In steps of two, of a layer and of a transposed one, as fits 29 layers of 16 to
# 256 channels, each beside the fastest without tiles (Zen 3). With 6.5 a vector both ways those of
# few channels went without: transposed 4x4 32->16@128 channels-last 2.5 ms, with tiles 1.8. The way
# in of steps of one is konv.kernels.winograd.cache's.
OUTPUT, CALL, BESIDE = 3.4, 40.0, 1.0
STEPS, TURNED = (7.0, 3.0, 80.0, 1.2), (4.5, 2.5, 100.0, 1.25)
STAGE = 5.0  # contiguous output: a vector of results transposed, staged and written
PACK = 0.6  # contiguous input: a number brought channels-last
# Contiguous input and output: begun lines of a box cost as much as so many numbers; of a box as
# wide as the image, whose lines follow each other, fewer (512@14, 1024@7 in 32 groups, Zen 3; with
# 32 instead of 64, 256->128@96 1.14 times as long, 256@175 1.09, 64@390 1.12, Granite Rapids).
RUN, WHOLE = 64, 12
# The same where a box holds not even one line of each interleaved axis, so that pixels and results
# are fetched and stored one by one: a number, and a vector of results (conv1d 64@2000 dilated by
# 400: 0.57 ms, without tiles 0.49; Zen 3).
SINGLE, SCATTER = 2.0, 20.0
ADDRESS = 3.0  # a pixel's or a result's
# A unit's own price, less if its thread knows V of the box (chunks of a block instead of half of
# all: 256@14 0.68 to 0.62 ms, 512@14 2.72 to 2.44, 256->384@13 0.94 to 0.86; two boxes of tiles in
# small chunks instead of one of which both threads make V: 128@56 in steps of two 1.27 to 1.17,
# contiguous 1.51 to 1.33, in other hours 2.6 to 2.0; Zen 3). With 4000 cycles a unit, and threads
# that are nearly equally fast, most layers had one unit a thread.
UNIT, KNOWN = 1500.0, 500.0
CHUNKS = 12  # of the output channels, for each thread at most
# With 12, 128@28 was cut as 0.55 ms, not 0.50; planning a layer takes 3 ms more.
TRIED, MANY = 24, 64  # cuts whose units are dealt out one by one, of so many units at most

Blocks = tuple[int, ...]  # of output channels: vectors of each


def even(count: int, most: int, pieces: int = PIECES) -> Iterator[int]:
    """Sizes of boxes, at most `most`, that cut `count` as evenly as can be: largest first."""
    fewest, last = -(-count // max(1, min(most, count))), 0
    for boxes in range(fewest, min(count, fewest + pieces) + 1):
        box = -(-count // boxes)
        if box != last:
            yield box
        last = box


def _pieces(count: int, box: int) -> list[int]:
    """The sizes of the boxes that an axis is cut into."""
    return [min(box, count - i) for i in range(0, count, box)]


def turns(axis: Axis, lines: int, box: int) -> int:
    """Lines of a box: whole turns of interleaved ones if they are so many."""
    apart = axis.dilation if axis.kernel > 1 else 1
    return box - box % apart if apart <= box < lines else box


@dataclass(frozen=True)
class Cut:
    """Planes of results - of a volume, else images - and lines of each axis in a box, and blocks of
    output channels in a unit; the cycles that the slowest thread takes for all units of the call.
    """

    planes: int
    rows: int
    columns: int
    chunk_blocks: int
    cycles: float


class Model:
    """What a layer under a plan costs, at one image size."""

    def __init__(self, conv: Conv, plan: Plan, target: Target, cache: Cache | None = None) -> None:
        self.conv, self.plan = conv, plan
        self.deep, *self.axes = three(conv)
        self.transforms = transforms(plan)
        self.points = self.transforms[0].n * self.transforms[1].n
        self.results = self.transforms[0].outputs * self.transforms[1].outputs
        self.lanes, self.ci = target.lanes(plan.dtype), conv.ci // conv.groups
        self.vectors = -(-conv.co // conv.groups // self.lanes)
        self.widths = tuple(widths(self.vectors, plan))
        self.blocks = len(self.widths)
        self.l2, self.cache = target.l2, cache or cache_of(target)
        # Numbers of a box that it holds, and of M beside V, a tile's at a point.
        self.room = self.l2 * self.cache.share / BYTES[plan.dtype]
        self.results_beside = self.cache.results * max(self.widths) * self.lanes
        self.known: dict[Blocks, tuple[int, list[tuple[int, int]]]] = {}
        self.units: dict[tuple[tuple[int, ...], Blocks], tuple[float, float]] = {}
        by_one = all(len(t.parts) == 1 for t in self.transforms)
        steps = TURNED if any(axis.up > 1 for axis in self.axes) else STEPS
        cycles = (self.cache.input, OUTPUT, CALL, BESIDE) if by_one else steps
        self.input, self.output, self.call, self.beside = cycles
        down, along = zip(self.axes, self.transforms, strict=True)
        self.lines = count(*down), count(*along)

    def best(self, threads: int, n: int) -> Cut:
        """The cheapest cut for n images and so many threads."""
        rows, columns = self.lines
        pieces = PIECES if self.deep.out == 1 else FEW
        boxes = [
            (deep, down, along)
            for along in even(columns, BOX, pieces)
            for down in even(rows, BOX // along, pieces)
            for deep in even(self.deep.out, BOX // (along * down), pieces)
        ]
        few = self.conv.dims < 3 and rows * columns <= BOX // 2
        if few and n > 1 == self.conv.groups:  # each group would pack all the images
            boxes += [(i, rows, columns) for i in even(n, BOX // (rows * columns)) if i > 1]
        down, along = zip(self.axes, self.lines, strict=True)
        whole = ((i, turns(*down, r), turns(*along, c)) for i, r, c in boxes)
        boxes = list(dict.fromkeys(whole))
        least = min(self.plan.pixels // 2, BOX)
        most = min(self.blocks, CHUNKS * threads if threads > 1 else 1)
        chunks = sorted({-(-self.blocks // pieces) for pieces in range(1, most + 1)}, reverse=True)
        cuts = [
            self._cut(*box, chunk, threads, n)
            for box in [box for box in boxes if prod(box) >= least] or boxes[:1]
            for chunk in chunks
        ]
        if threads == 1:
            return min(cuts, key=lambda cut: cut.cycles)
        cuts.sort(key=lambda cut: cut.cycles)
        best = replace(cuts[0], cycles=inf)
        for cut in cuts[:TRIED]:
            cycles = self._dealt(cut, threads, n, best.cycles)
            if cycles < best.cycles:
                best = replace(cut, cycles=cycles)
        return best

    def _dealt(self, cut: Cut, threads: int, n: int, limit: float) -> float:
        """Cycles until the last thread ends, of units as large as they are; `limit` or more if that
        is sure to be so.
        """
        images, deep = (n, self.deep.out) if self.conv.dims > 2 else (1, n)
        axes = zip((deep, *self.lines), (cut.planes, cut.rows, cut.columns), strict=True)
        boxes = [
            box
            for sizes in product(*(_pieces(*axis) for axis in axes))
            for box in [sizes] * self.conv.groups
        ] * images
        if len(boxes) * -(-self.blocks // cut.chunk_blocks) > MANY:
            return at_least(cut.cycles * threads, threads)
        starts = range(0, self.blocks, cut.chunk_blocks)
        chunks = [self.widths[i : i + cut.chunk_blocks] for i in starts]
        units = [
            Unit(i, *self._unit(box, chunk)) for i, box in enumerate(boxes) for chunk in chunks
        ]
        work = sum(unit.knowing if i % len(chunks) else unit.fresh for i, unit in enumerate(units))
        least = at_least(work, threads)
        return least if least >= limit else at_last(units, threads)

    def _unit(self, box: tuple[int, ...], chunk: Blocks) -> tuple[float, float]:
        """A unit: some blocks of a box, whose V is not made yet, and where its thread has it."""
        if (box, chunk) not in self.units:
            planes, rows, columns = box
            read = planes + self.deep.kernel - 1
            inputs = UNIT + read * self._inputs(rows, columns, self.conv.groups if read == 1 else 1)
            products = self._products(planes * rows, columns, chunk, read / planes)
            self.units[box, chunk] = inputs + products, KNOWN + products
        return self.units[box, chunk]

    def _cut(self, planes: int, rows: int, columns: int, chunk: int, threads: int, n: int) -> Cut:
        chunks = -(-self.blocks // chunk)
        down, along = self.lines
        boxes = -(-down // rows) * -(-along // columns) * self.conv.groups
        boxes *= n * -(-self.deep.out // planes) if self.conv.dims > 2 else -(-n // planes)
        # Threads take units that follow each other, which share a box's V.
        shared = min(1.0, 1 / chunks + (threads - 1) / (boxes * chunks or 1))
        read = planes + self.deep.kernel - 1
        # A single plane's tables serve all groups; of several, each makes its own.
        unit = shared * read * self._inputs(rows, columns, self.conv.groups if read == 1 else 1)
        unit += self._products(planes * rows, columns, self.widths[:chunk], read / planes)
        return Cut(planes, rows, columns, chunk, -(-boxes * chunks // threads) * unit)

    def _inputs(self, rows: int, columns: int, served: int) -> float:
        """A group's V of a plane, its packed image, and tables, which serve so many groups."""
        tiles, vectors = rows * columns, -(-self.ci // self.lanes)
        each = self.input + self.cache.far * self._leaves(tiles)
        cycles = tiles * self.points * (ADDRESS / served + vectors * each)
        if self.plan.packed:
            over, along = self.transforms
            high = (rows - 1) * over.step + over.inputs
            if self._scattered(columns):
                numbers = high * columns * along.inputs * SINGLE
            else:
                wide = (columns - 1) * along.step + along.inputs
                numbers = high * (wide + self._begun(columns)) * PACK
            cycles += numbers * self.ci
        return cycles

    def _leaves(self, tiles: int, read: float = 1.0) -> bool:
        """Whether V of so many tiles, `read` times as many of several planes, leaves the
        second-level cache before all blocks have used it.
        """
        return self.points * tiles * (self.ci * read + self.results_beside) > self.room

    def _scattered(self, columns: int) -> bool:
        """Whether a box so wide has less than a line of each interleaved axis."""
        return columns < min(self.axes[1].dilation, self.lines[1])

    def _begun(self, columns: int) -> int:
        return WHOLE if columns >= self.lines[1] else RUN

    def _tiles(self, blocks: Blocks) -> tuple[int, list[tuple[int, int]]]:
        """Vectors of those blocks, and twice the cycles of a register tile of each size over all of
        them: the same for all boxes.
        """
        if blocks not in self.known:
            counts = [(nr, blocks.count(nr)) for nr in set(blocks)]
            sizes = (self.plan.pixels, *RESTS.get(self.plan.pixels, ()))
            cycles = [sum(max(size * nr, 8, size + nr) * of for nr, of in counts) for size in sizes]
            self.known[blocks] = sum(blocks), list(zip(sizes, cycles, strict=True))
        return self.known[blocks]

    def _products(self, rows: int, columns: int, blocks: Blocks, read: float) -> float:
        """Some blocks of output channels over a box: products and transforms out; `read`: tiles of
        V for each of M.
        """
        rest, sums, calls = rows * columns, 0.0, 0
        # All groups pass by between a box and the next, which reads U of its group again (512@14 in
        # 32 groups, one box for four: contiguous 0.221 to 0.203 ms, else 0.207 to 0.160, Zen 3).
        passing = self.conv.groups if rest < prod(self.lines) * self.deep.out else 1
        vectors, tiles = self._tiles(blocks)
        for size, cycles in tiles:
            here = rest // size if size != tiles[-1][0] else -(-rest // size)
            rest, calls = rest - here * size, calls + here
            sums += here * cycles * self.beside
        product = self.points * (sums * self.ci / 2 + len(blocks) * calls * self.call)
        product *= self.deep.kernel
        size = self.points * self.ci * BYTES[self.plan.dtype]
        far = size * vectors * self.lanes * self.deep.kernel  # from beyond the second-level cache:
        if size * self.vectors * self.lanes * self.deep.kernel * passing < self.l2 // 2:  # U,
            far //= 4
        stream = far / self.cache.weights
        if self._leaves(rows * columns, read):  # and V
            stream += size * rows * columns * len(blocks) * self.deep.kernel / self.cache.stream
        product = max(product, stream) + min(product, stream) / 4
        out = self.points * self.output
        if self.plan.blocked:
            begun = self._begun(columns) / (columns * self.transforms[1].outputs)
            stage = SCATTER if self._scattered(columns) else STAGE * (1 + begun)
            out += self.results * stage
        return product + rows * columns * vectors * out
