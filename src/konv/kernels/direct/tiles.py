"""Register tiles of output channels in the lanes, and what they cost."""

from __future__ import annotations

from functools import lru_cache

TRIP = 12  # cycles to begin with the next tap: its row of addresses and weights
# Cycles of a tile: its sums begun and stored (1x1 of 8, 24, 48, 96 channels: 77 to 108 more than
# the multiply-adds at their peak); and of a vector that is stored in part (AVX2's masked store;
# Zen 3).
CALL, MASKED = 60, 12
# The same of tiles along rows or pixels, whose sums overlap the next tile's.
ROW_TRIP, ROW_CALL = 4, 35

# Register tiles, pixels x vectors of output channels, by bytes in a vector and the number of vector
# registers; all leave registers for the weights and one broadcast, and tests/llvm/test_targets.py
# holds that no sum leaves its register. SSE needs one more for the product, as it has no
# multiply-add (3 x 3: 24.2 GFLOP/s, 4 x 3: 22.9, Zen 4 told to be x86-64). For NEON, LLVM reads
# the numbers of several channels ahead, which leaves 20 for sums: 6 x 4, 8 x 3 and 10 x 2 spill.
# With few input channels all are unrolled and LLVM reads every channel of a pixel while it has the
# address: 10 x 2 on AVX-512 then spills (64 GFLOP/s, 8 x 2: 107), so does 8 x 1 on AVX2 (42; 58).
TILES = {
    (16, 16): ((3, 3), (4, 2), (7, 1)),
    (32, 16): ((4, 3), (6, 2), (7, 1)),
    (16, 32): ((5, 4), (6, 3), (8, 2), (10, 1)),
    (64, 32): ((6, 4), (8, 3), (8, 2), (10, 1)),
}


def last_block(vectors: int, nr: int, odd: int) -> int:
    """Vectors of the last block if it is not like the others: narrower, or not to be written in
    full.
    """
    return vectors % nr or (nr if odd else 0)


@lru_cache(1024)  # every layer asks for the same few
def tile_cost(vectors: int, mr: int, nr: int) -> float:
    """Cycles per pixel, channel and tap for `vectors` vectors of output channels, two loads and two
    multiply-adds a cycle, results 4 cycles late: a block of n vectors takes the longest of the
    three.
    """
    full, tail = divmod(vectors, nr)
    widths = [nr] * full + [tail] * (tail > 0)
    return sum(max(mr * n / 2, (mr + n) / 2, 4) for n in widths) / mr


def flat_cost(vectors: int, tile: tuple[int, int], pixels: int) -> float:
    """As `tile_cost`, of tiles along pixels; those of the last block have so many pixels. Of two
    alike the wider is better, which reads pixels less often: 6 x 2 takes 1.03 times as long as
    4 x 3 (1x1 layers of ResNet-50 and MobileNet v2, Zen 3).
    """
    mr, nr = tile
    full, last = divmod(vectors, nr)
    cost = full * tile_cost(nr, mr, nr) + (tile_cost(last, pixels, last) if last else 0)
    return cost * (1 + 0.06 / nr)
