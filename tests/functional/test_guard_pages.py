"""No kernel reads or writes one byte outside its arrays, its scratch memory or its packed
weights.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
RANDOM = 400  # cases of each size; what they are is the same every time


def child(*arguments: str) -> tuple[int, str]:
    """Run functional.fences as `child_of` does."""
    return child_of("functional.fences", *arguments)


def child_of(module: str, *arguments: str) -> tuple[int, str]:
    """Run a module in a process of its own; its exit code and the end of what it wrote."""
    path = os.pathsep.join(
        [str(TESTS.parent / "src"), str(TESTS), os.environ.get("PYTHONPATH", "")]
    )
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600,
    )  # fmt: skip
    return done.returncode, "\n".join(done.stdout.splitlines()[-40:])


@pytest.mark.slow
@pytest.mark.parametrize("end", ["end", "start"])
def test_nothing_beyond(end: str, whole: bool) -> None:
    """All that a call touches ends, or begins, at a page without access: every problem, and random
    ones.

    So do the parts of scratch memory. All of it is NaN before, so what is read must have been
    written.
    """
    code, said = child(end, str(4000 if whole else RANDOM))
    assert code == 0, f"exit code {code}; it said last:\n{said}"
    assert said.endswith("done")


@pytest.mark.parametrize("end", ["end"])
def test_this_can_fail(end: str) -> None:
    """Packed weights that are 64 bytes too short kill."""
    code, said = child(end, "0", "64")
    assert code < 0, f"exit code {code}; it said last:\n{said}"
