"""Weight gradients in memory between pages without access, as functional.fences has it:
`python -m kernels.gradient_fences end` with src and tests on PYTHONPATH.
"""

from __future__ import annotations

import faulthandler
import sys
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from itertools import product
from typing import Any
from unittest.mock import patch

import numpy as np
from functional.check import threads
from functional.fences import PAGE, Fence
from kernels.test_gradient import (
    EVERY,
    KERNELS,
    arrays,
    pinned,
    right,
    small_boxes,
    takes,
)
from shared import share

from konv import arrays as kinds
from konv import weight_gradient
from konv.geometry import Conv
from konv.kernels import scratch
from konv.kernels.gradient import cut as gradient_cut
from konv.runtime import gradient as runtime
from konv.runtime import memory


def run(conv: Conv, kernel: Any, x: Any, dy: Any) -> None:
    for cut in (small_boxes, nullcontext):
        with cut(), pinned(kernel):
            got = weight_gradient(conv, x, dy)
        assert right(conv, kernel, x, dy, got)


def main(end: str, missing: str = "0") -> None:
    faulthandler.enable()
    share()
    fence, laid = Fence(end == "end"), []

    def cut(work: Any) -> Any:
        def fenced(*arguments: Any) -> Any:
            laid.clear()
            made = work(*arguments)
            each = made.words[gradient_cut.JOB.index("thread_bytes")]
            own, *apart = laid
            gaps = [t * each + gap for t in range(made.threads) for gap in own]
            gaps += [made.threads * each + gap for some in apart for gap in some]
            whole = -(-made.scratch // PAGE) * PAGE
            fence.scratch[whole] = gaps
            return replace(made, scratch=whole)

        return fenced

    def lay_out(words: dict[str, int], parts: dict[str, int]) -> int:
        short = {n: max(0, size - int(missing)) for n, size in parts.items()}
        length = fence.lay_out(words, short)
        laid.append(fence.gaps)
        return length

    def empty(_: Any, shape: Any, dtype: str, order: Any = None) -> Any:
        return fence.array(np.full(shape, np.nan, dtype))

    with ExitStack() as stack:
        for owner, name, new in (
            (kinds.NumpyKind, "empty", empty),
            (memory.Buffer, "__init__", lambda *a: fence.buffer(*a)),
            (memory, "SMALLEST", 0),
            (memory, "give_back", lambda _: None),
            (scratch, "lay_out", lay_out),
            (runtime, "CUT", {kernel: cut(work) for kernel, work in runtime.CUT.items()}),
        ):
            stack.enter_context(patch.object(owner, name, new))
        memory.release()
        stack.enter_context(threads(2))
        for line, dtype, kernel, last in product(
            EVERY, ("float32", "float16"), KERNELS, (False, True)
        ):
            conv = replace(Conv.parse(line), dtype=dtype)
            if takes(kernel, conv, last):
                print(conv, kernel.name, last, flush=True)  # noqa: T201
                run(conv, kernel, *(fence.array(a) for a in arrays(conv, last)))
    print("done")  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
