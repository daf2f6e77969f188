"""bench/scaling.py measures layers with one thread and all, and doubled."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from konv import get_num_threads

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "bench" / "scaling.py"
LAYERS = ("conv2d 1x8x6x6 o8 k3 p1  # small", "conv1d 1x4x40 o4 k3 g2  # one axis")


def rows(*options: str) -> list[str]:
    command = [sys.executable, str(SCRIPT), *LAYERS, "--seconds", "0.01", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_threads() -> None:
    """A row for each layout with the milliseconds of both, their ratio and what was wanted."""
    title, *body, last = rows()
    assert title.split()[:4] == ["ms", "of", "1", "thread"]
    found = [row.split() for row in body]
    layouts = ["contiguous", "channels-last", "contiguous"]
    assert [row[0 if "axis" not in row else 1] for row in found] == ["small", "small", "axis"]
    assert [next(w for w in row if w in layouts) for row in found] == layouts
    for row in found:
        numbers = [float(word) for word in row if re.match(r"\d", word)]
        alone, together, ratio, wanted, machine = numbers
        assert ratio == pytest.approx(alone / together, rel=0.35, abs=0.01)  # rounded to 1 us
        assert 0.5 < wanted < 2.5
        assert 0.2 < machine < 1.5 * get_num_threads()  # others may be at work
    assert last.startswith("to what is wanted: geometric mean")


def test_doubled() -> None:
    """The factor of twice the rows, images and outputs; groups keep the outputs they have."""
    *body, last = rows("--doubled")
    kinds = [re.findall(r"(rows|images|outputs) +[\d.]+", row) for row in body]
    assert kinds == [["rows", "images", "outputs"]] * 2 + [["rows", "images"]]
    assert "least" in last
