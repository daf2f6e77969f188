"""Pieces of machine code that the processes of a test run have together."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

PIECES = "KONV_TESTS_PIECES"  # the variable that names their folder to child processes


class Shared(dict[bytes, bytes]):
    """Pieces of machine code, of which workers compile none that another has compiled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def get(self, key: bytes, default: bytes | None = None) -> bytes | None:  # type: ignore[override]
        if key not in self:
            with suppress(FileNotFoundError):
                super().__setitem__(key, (self.folder / key.hex()).read_bytes())
        return super().get(key, default)

    def __setitem__(self, key: bytes, code: bytes) -> None:
        super().__setitem__(key, code)
        part = self.folder / f"{key.hex()}.{os.getpid()}"
        part.write_bytes(code)
        part.replace(self.folder / key.hex())


def share() -> None:
    """In a child process: compile no piece that the tests, or another child, have compiled."""
    from konv.llvm import build

    if PIECES in os.environ:
        build._known = Shared(Path(os.environ[PIECES]))
