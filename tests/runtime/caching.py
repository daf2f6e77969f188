"""What the tests of the object cache share: keys, code, processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from konv.runtime import store

KEY, OTHER, THIRD, FOURTH = (digit * 64 for digit in "abcd")
CODE = bytes(range(128)) + b"\n\0\n\xff"
SOURCE = Path(store.__file__).parents[2]
NOBODY = 65534


def files(place: Path) -> set[str]:
    return {path.name for path in place.iterdir()}


def child(code: str, **environment: str) -> subprocess.Popen[str]:
    """A Python of its own that has `store` and `sealed`."""
    code = f"from konv.runtime import sealed, store\n{code}"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def printed(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return output
