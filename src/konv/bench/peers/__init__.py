"""The competitors, a file a library."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from konv.bench.peers.peer import CONTIGUOUS, LAST, LAYOUTS, Peer, Run, name
from konv.errors import ProblemError

# Files of this folder, in the order of the table.
LIBRARIES = ("konv", "torch", "compiled", "onnxruntime", "openvino", "ncnn", "jax")

# Only measured where they are named.
ON_REQUEST = ("own",)

OURS = "konv"

__all__ = ["CONTIGUOUS", "LAST", "LAYOUTS", "LIBRARIES", "OURS", "Peer", "Run", "installed", "name"]


def installed(wanted: Sequence[str] = ()) -> tuple[Peer, ...]:
    """Return the competitors that can run here, konv first; of `wanted` libraries if any are named.
    "own", which is konv with each of its algorithms pinned, must be.

    ProblemError for a library that is unknown or not installed.
    """
    for library in wanted:
        if library not in LIBRARIES + ON_REQUEST:
            names = ", ".join(LIBRARIES + ON_REQUEST)
            raise ProblemError(f"{library!r} is no peer. Choose from {names}.")
    found: list[Peer] = []
    for library in LIBRARIES + ON_REQUEST:
        if library not in (OURS, *wanted) if wanted else library in ON_REQUEST:
            continue
        here = import_module(f"konv.bench.peers.{library}").peers()
        if library in wanted and not here:
            raise ProblemError(f"{library} is not installed here: pip install 'konv[bench]'.")
        found += here
    return tuple(found)
