"""Run a weight gradient on addresses: decided once in a `GradientCall`, as convolutions are in
konv.runtime.execute.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from konv import llvm, log
from konv.geometry import Conv
from konv.kernels import gradient
from konv.kernels.gradient import apart as gradient_apart
from konv.kernels.gradient import fourier as gradient_fourier
from konv.kernels.gradient import pencils as gradient_pencils
from konv.kernels.gradient import planar as gradient_planar
from konv.kernels.gradient import rows as gradient_rows
from konv.kernels.gradient import winograd as gradient_winograd
from konv.kernels.gradient.fourier import cut as gradient_fourier_cut
from konv.kernels.gradient.pencils import cut as gradient_pencils_cut
from konv.kernels.gradient.planar import cut as gradient_planar_cut
from konv.kernels.gradient.records import JOB
from konv.kernels.gradient.rows import cut as gradient_rows_cut
from konv.kernels.gradient.winograd import cut as gradient_winograd_cut
from konv.plan import Plan, Strides
from konv.runtime import memory
from konv.runtime.choose import current_precision
from konv.runtime.code import gradient_kernel
from konv.runtime.threads import Team
from konv.target import Target

CUT = {
    gradient: gradient_apart.work,
    gradient_planar: gradient_planar_cut.work,
    gradient_rows: gradient_rows_cut.work,
    gradient_pencils: gradient_pencils_cut.work,
    gradient_winograd: gradient_winograd_cut.work,
    gradient_fourier: gradient_fourier_cut.work,
}


def taken(conv: Conv) -> bool:
    """Whether some kernel computes it."""
    return any(algorithm.why_not(conv) is None for algorithm in CUT)


def choose(conv: Conv, target: Target, packed: bool, blocked: bool) -> tuple[Plan, Any]:
    """The plan of least cost in the precision in force, and what cuts a layer for it."""
    exact = current_precision() == "exact"
    found = [
        (algorithm.cost(conv, plan, target), plan, cut)
        for algorithm, cut in CUT.items()
        if algorithm.why_not(conv) is None and (algorithm.exact or not exact)
        for plan in (algorithm.plan(conv, target, packed, blocked),)
        if plan is not None
    ]
    _, plan, cut = min(found, key=lambda each: each[0])
    return plan, cut


class GradientCall:
    """The weight gradient of an ordinary layer, for x and dy with these strides in elements;
    `w_last`: it lies channels-last, else contiguous.
    """

    def __init__(
        self,
        conv: Conv,
        x: Strides,
        y: Strides,
        team: Team,
        x_last: bool,
        y_last: bool,
        w_last: bool = False,
    ) -> None:
        target = llvm.detect()
        self.conv, self.team = conv, team
        self.plan, work = choose(conv, target, not x_last, not y_last)
        self.work = work(conv, self.plan, target, x, y, team.threads)
        memory.require(self.work.scratch, f"scratch memory of the weight gradient of {conv}")
        runs = [self.work.words, *self.work.then]
        for words in runs:
            words[JOB.index("w_last")] = int(w_last)
        self._jobs: list[Any] = [np.array(words, dtype=np.int64) for words in runs]
        self._addresses = [job.ctypes.data for job in self._jobs]
        self._run = gradient_kernel(self.plan)
        self._team, self._threads = team.address, self.work.threads
        log.event(
            "plan", conv=conv, plan=self.plan, threads=self.work.threads, scratch=self.work.scratch
        )

    def run(self, x: int, dy: int, dw: int) -> None:
        """Compute dw from x and dy, all at these addresses."""
        scratch = memory.take(self.work.scratch)
        at, team, threads = scratch.address, self._team, self._threads
        # A kernel's arguments are named after those of a convolution: x, weights, y.
        for job in self._addresses:
            self._run(job, x, dw, dy, at, team, threads)
        memory.give_back(scratch)
