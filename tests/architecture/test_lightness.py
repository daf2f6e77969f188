"""Importing konv is cheap, and the geometry needs the standard library alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
from architecture.source import FILES, PACKAGE, part_of

BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top != "konv" and top not in sys.stdlib_module_names:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
"""

TIME = """
import time
start = time.process_time()
import konv
print(time.process_time() - start)
"""

HEAVY = """
import sys
before = set(sys.modules)
import konv
dir(konv)
print(*sorted({"numpy", "llvmlite", "torch"} & (set(sys.modules) - before)))
"""

L0 = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in FILES
    if part_of(path) in ("errors", "geometry", "target", "plan")
)


def child(code: str) -> str:
    """What `code` prints in a new Python that finds konv in this tree."""
    code = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", L0)
def test_l0_needs_the_standard_library_alone(module: str) -> None:
    child(f"{BLOCK}\nimport {module}")


def test_geometry_works_with_the_standard_library_alone() -> None:
    parse = "print(Conv.parse('conv2d 1x3x9x9 o4 k3 s2 p1').out_shape)"
    assert child(f"{BLOCK}\nfrom konv.geometry import Conv\n{parse}") == "(1, 4, 5, 5)\n"


def test_the_block_blocks() -> None:
    with pytest.raises(AssertionError, match="numpy is blocked"):
        child(f"{BLOCK}\nimport numpy")


def test_import_konv_loads_nothing_heavy() -> None:
    assert child(HEAVY) == "\n"


def test_import_konv_takes_under_20_milliseconds() -> None:
    """Of the processor, the best of several: what else the machine does can only add."""
    assert min(float(child(TIME)) for _ in range(7)) < 0.020
