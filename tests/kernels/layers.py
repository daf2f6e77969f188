"""The problems and machines that algorithms are asked about, and layers at other sizes."""

from __future__ import annotations

from functools import lru_cache
from itertools import chain, product
from pathlib import Path

from konv.errors import ProblemError
from konv.geometry import Conv, read_problems
from konv.target import Target

FOLDER = Path(__file__).resolve().parents[2] / "problems"
FILES = {
    file.stem: [conv for _, conv in read_problems(file.read_text("utf-8"))]
    for file in sorted(FOLDER.glob("*.txt"))
}
PROBLEMS = list(dict.fromkeys(chain(*FILES.values())))  # networks have layers in common
# What is awkward, and a quarter of the networks' layers, which differ in little but size: for what
# takes long for each.
AWKWARD = dict.fromkeys(FILES["article"] + FILES["shapes"])
SOME = [*AWKWARD, *[conv for conv in PROBLEMS if conv not in AWKWARD][::4]]
LAYOUTS = list(product((True, False), repeat=2))
TARGETS = {
    "sse": Target("x86_64-linux-gnu", "x86-64", (), 16, 16),
    "avx2": Target("x86_64-linux-gnu", "haswell", (), 32, 16),
    "avx512": Target("x86_64-linux-gnu", "skylake-avx512", (), 64, 32),
    "neon": Target("aarch64-linux-gnu", "cortex-a72", (), 16, 32),
}
SIZES = (1, 2, 3, 5, 9, 12, 20, 60, 400)


@lru_cache(2**14)  # all problems at all sizes: each algorithm and machine is asked about the same
def sized(conv: Conv, size: int) -> Conv | None:
    """The layer on an image that has `size` pixels more on each axis than its kernel needs."""
    try:
        needed = (max(1, axis.extent - axis.lo - axis.hi) for axis in conv.axes)
        return conv.with_size(*(size + n - 1 for n in needed))
    except ProblemError:  # the padding mode cannot fill so much beside so few pixels
        return None
