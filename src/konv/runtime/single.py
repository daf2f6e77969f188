"""Layers of one pixel and one tap, computed from the weights as they lie (konv.kernels.single):
nothing is packed, so nothing can be out of date.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from konv import llvm
from konv.kernels import single
from konv.runtime.code import single_kernel
from konv.runtime.execute import Call


class Single:
    """What stands in for a Call of such a layer; its results are the same to the bit."""

    def __init__(self, call: Call) -> None:
        target, conv, weight = llvm.detect(), call.conv, call.form.weight
        self._words: Any = np.array(single.job(conv, target, weight, call.form.biased), np.int64)
        self.job, self.team = self._words.ctypes.data, call.team.address
        self.threads = single.threads(conv, call.team.threads)
        self.kernel = single_kernel(single.plan_like(call.plan, target, weight, conv.transposed))

    def run(self, x: int, arrays: tuple[int, int], y: int) -> None:
        """Compute y from x with the weight and the bias, 0 for none, at two addresses."""
        weight, bias = arrays
        self.kernel(self.job, x, weight, y, bias, self.team, self.threads)


def made(call: Call) -> Single | None:
    """What stands in for a call, if anything does."""
    conv, x, _, packs, weight, *_ = call.form
    fits = packs.ci == conv.ci and single.fits(conv, call.plan, x, weight)
    return Single(call) if fits else None
