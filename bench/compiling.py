"""What compiling a kernel takes, cold: emitting, LLVM, loading; no cache, nothing known before.

    python bench/compiling.py                       milliseconds of a kernel of each kind
    python bench/compiling.py --beside ../old/src   and those of another checkout, in turns
    python bench/compiling.py 'conv2d 1x64x56x56 o64 k3 p1'

First what a user waits, who has the machine alone, then the processor's time of all threads; of
each the least of some rounds. Imports, which Python does once, are not counted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src"
ROUNDS = 3

# What stands in the table, a layer.
KINDS = (
    ("ordinary 3x3", "conv2d 1x64x56x56 o64 k3 p1"),
    ("ordinary 5x5", "conv2d 1x64x27x27 o192 k5 p2"),
    ("1x1", "conv2d 1x256x56x56 o64 k1"),
    ("strided 7x7", "conv2d 1x3x224x224 o64 k7 s2 p3"),
    ("strided 3x3", "conv2d 1x512x14x14 o512 k3 p1 s2"),
    ("dilated", "conv2d 1x256x33x33 o256 k3 p2 d2"),
    ("grouped, 4", "conv2d 1x128x56x56 o128 k3 p1 g32"),
    ("grouped, 8", "conv2d 1x32x56x56 o32 k3 p1 g4"),
    ("depthwise 3x3", "conv2d 1x96x56x56 o96 k3 p1 g96"),
    ("depthwise 31x31", "conv2d 1x64x56x56 o64 k31 p15 g64"),
    ("depthwise 3x3, dilated", "conv2d 1x128x32x32 o128 k3 p2 d2 g128"),
    ("transposed 16x16", "tconv2d 1x21x28x28 o21 k16 s8"),
    ("transposed 4x4, to 3", "tconv2d 1x64x32x32 o3 k4 s2 p1"),
    ("transposed 3x3", "tconv2d 1x64x32x32 o64 k3 s2 p1"),
    ("transposed 4x4", "tconv2d 1x256x16x16 o128 k4 s2 p1"),
    ("one axis", "conv1d 1x64x1000 o64 k9 p4"),
    ("volume", "conv3d 1x32x8x28x28 o32 k3 p1"),
)

CHILD = """
import sys
from time import perf_counter, process_time
from konv import llvm
from konv.geometry import Conv
from konv.kernels import by_name
from konv.llvm import build
from konv.runtime import code, gradient as weights
from konv.runtime.choose import choose

target = llvm.detect()
others = {g.name: g for g in weights.CUT}
for line in sys.stdin:
    kind, packed, text = line.rstrip().split(" ", 2)
    both, conv = (packed == "1",) * 2, Conv.parse(text)
    if kind == "forward":
        plan = choose(conv, target, *both)
        emitter = by_name(plan.algorithm)
    else:
        plan = weights.choose(conv, target, *both)[0]
        emitter = others[plan.algorithm]
    build._known.clear()
    begin, work = perf_counter(), process_time()
    loaded = code.compiled(repr(plan), "", target, lambda: emitter.emit(plan, target))
    took = 1e3 * (perf_counter() - begin), 1e3 * (process_time() - work)
    print(*took, sum(map(len, build._known.values())), plan.algorithm, flush=True)
"""


class Checkout:
    """A process that compiles with one checkout's konv."""

    def __init__(self, source: Path) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(source), "KONV_CACHE_DIR": ""},
        )

    def compile(self, kind: str, contiguous: bool, text: str) -> tuple[float, float, int, str]:
        """Milliseconds waited and worked, bytes, and the algorithm."""
        assert self.child.stdin
        assert self.child.stdout
        self.child.stdin.write(f"{kind} {int(contiguous)} {text}\n")
        self.child.stdin.flush()
        waited, worked, size, name = self.child.stdout.readline().split()
        return float(waited), float(worked), int(size), name

    def close(self) -> None:
        """Let it end."""
        self.child.communicate()


def measure(checkouts: list[Checkout], kind: str, contiguous: bool, text: str) -> str:
    """A row of the table: the algorithm, its bytes, and by checkout the milliseconds waited and
    those worked; the ratio is of those waited.
    """
    rounds = [[c.compile(kind, contiguous, text) for c in checkouts] for _ in range(ROUNDS)]
    waited, worked = (
        [min(took[which] for took in times) for times in zip(*rounds, strict=True)]
        for which in (0, 1)
    )
    size, name = rounds[0][0][2:]
    ratio = f"  {waited[1] / waited[0]:5.2f}" if len(waited) > 1 else ""
    layout = "contiguous" if contiguous else "channels-last"
    numbers = "".join(f"{a:8.0f} {b:5.0f}" for a, b in zip(waited, worked, strict=True))
    return f"{name:18} {layout:14} {size / 1024:5.0f} KB{numbers}{ratio}"


def main() -> None:
    """As the arguments say."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    asked.add_argument("layers", nargs="*", help="lines of konv's own, instead of the table's")
    asked.add_argument("--beside", type=Path, help="the src folder of another checkout")
    asked.add_argument("--only", default="", help="forward or gradient")
    arguments = asked.parse_args()
    sources = [SOURCE, *([arguments.beside] if arguments.beside else [])]
    checkouts = [Checkout(source) for source in sources]
    kinds = [("", line) for line in arguments.layers] or KINDS
    for checkout in checkouts:  # the first compiles what all others find warm
        checkout.compile("forward", True, KINDS[0][1])
    for kind in ("forward", "gradient"):
        for label, text in kinds if arguments.only in ("", kind) else ():
            if kind == "gradient" and text.startswith("tconv"):
                continue
            for contiguous in (True, False):
                row = measure(checkouts, kind, contiguous, text)
                print(f"{kind:9} {label or text:22} {row}", flush=True)
    for checkout in checkouts:
        checkout.close()


if __name__ == "__main__":
    main()
