"""The competitors, a file a library."""

from __future__ import annotations

from importlib import import_module

from konv.bench.peers.peer import CONTIGUOUS, LAST, LAYOUTS, Peer, Run, name

LIBRARIES = ("konv", "torch")  # files of this folder, in the order of the table

__all__ = ["CONTIGUOUS", "LAST", "LAYOUTS", "LIBRARIES", "Peer", "Run", "installed", "name"]


def installed() -> tuple[Peer, ...]:
    """Return the competitors that can run here; konv's come first."""
    files = (import_module(f"konv.bench.peers.{library}") for library in LIBRARIES)
    return tuple(peer for file in files for peer in file.peers())
