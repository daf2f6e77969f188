"""bench/compiling.py measures every kind of kernel, beside another checkout if asked to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "bench" / "compiling.py"


def test_a_row_for_each_layout_and_direction() -> None:
    """With the algorithm, its bytes, the milliseconds waited and worked of both checkouts, and the
    ratio of those waited.
    """
    line = "conv2d 1x8x6x6 o8 k1"
    command = [sys.executable, str(SCRIPT), "--beside", str(ROOT / "src"), line]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [row.removeprefix(kind).split() for kind in ("forward", "gradient")
            for row in done.stdout.splitlines() if row.startswith(kind)]  # fmt: skip
    assert [row[5] for row in rows] == ["contiguous", "channels-last"] * 2
    for row in rows:
        size, unit, *times, ratio = row[-7:]
        assert unit == "KB"
        assert min(map(int, (size, *times))) > 0
        assert 0.1 < float(ratio) < 10
