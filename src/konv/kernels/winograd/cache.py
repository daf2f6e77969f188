"""What the model of konv.kernels.winograd.cut takes of a second-level cache."""

from __future__ import annotations

from dataclasses import dataclass, replace

from konv.target import Target


@dataclass(frozen=True)
class Cache:
    """What a second-level cache holds of a box, and what it costs where it does not.

    input    cycles of a vector at a point on its way in, in steps of one
    far      and more of those of a V that the cache does not hold,
    share    which is V, and `results` times M, of more than this share of the cache
    stream   bytes of such a V that arrive in a cycle
    weights  the same of U, which in a network comes from memory: with 8 both threads read all of
             it, each for half of the tiles, where now each reads half (256@14 0.98 to 0.76 ms,
             512@7 1.88 to 1.70, with eleven and six layers taking turns, Zen 3)
    """

    input: float
    far: float
    share: float
    results: float
    stream: float
    weights: float = 6.0


SMALL = Cache(input=3.6, far=0.0, share=5 / 8, results=0.0, stream=8.0)  # Zen 3, 512 KB
# Beyond a large one is a cache that many cores share, slow to answer, and its vectors are whole
# lines: V is dear to make, and M takes room beside it (35 of 122 layers are cut anew, two threads,
# in turns: 1.02 times as fast, with cold caches 1.03; 256->512@28 1.07 to 1.19, 512@44 1.08 to 1.1,
# 128@28 1.12, 160->320@48 .95 and .91, Granite Rapids, 2 MB. Boxes of up to 128 tiles: 256@56
# contiguous 1.1, but 512@33 dilated .89, 512@44 .93.)
LARGE = Cache(input=15.0, far=2.0, share=1 / 2, results=2.0, stream=16.0)
MOST_SMALL = 1 << 20  # bytes
# Of layers in steps of one beside those without tiles, with AVX-512: as if two images shared U, for
# two are twice as fast then, and choosing never looks at a batch (one, two, eight images of 128@7
# .035, .055, .15 ms, without tiles .046, .089, .32; of 256@7 .19, .24, .56 and .16 to .19, .38,
# 1.39; 256@8, 16 images, 1.3 and 3.7; Granite Rapids).
SHARED = replace(SMALL, weights=12.0)


def cache_of(target: Target) -> Cache:
    """That of a machine."""
    return SMALL if target.l2 <= MOST_SMALL else LARGE
