"""konv with each of its algorithms pinned, against konv as it chooses: is the choice right?

Asked for by name, `konv bench --peers own`: the best of these is what a perfect choice would take.
"""

from __future__ import annotations

from importlib.util import find_spec

from konv.bench.peers.konv import Konv
from konv.bench.peers.peer import LAYOUTS
from konv.kernels import ALGORITHMS


def peers() -> tuple[Konv, ...]:
    """Return every algorithm in both layouts."""
    tensors = find_spec("torch") is not None
    return tuple(
        Konv(layout, tensors, algorithm.name) for algorithm in ALGORITHMS for layout in LAYOUTS
    )
