"""Run batch normalisation on addresses: decided once in a `NormCall`, for arrays of one size."""

from __future__ import annotations

import struct
from array import array
from typing import Any

from konv.kernels import norm
from konv.runtime import memory
from konv.runtime.code import norm_kernel
from konv.runtime.threads import Team


class NormCall:
    """Batch normalisation in training mode of arrays (images, channels, pixels), contiguous or
    channels-last, with an activation behind it: "", "relu" or "relu6".
    """

    def __init__(
        self,
        dtype: str,
        contiguous: bool,
        sizes: tuple[int, int, int],
        activation: str,
        team: Team,
    ) -> None:
        self.sizes, self.team, self._how = sizes, team, (dtype, contiguous)
        self._behind: dict[str, NormCall] = {}
        self._words = norm.job(dtype, contiguous, *sizes)
        self.padded = norm.padded(sizes[1], dtype)
        self._scratch = norm.scratch(dtype, contiguous, self._words)
        memory.require(self._scratch, "scratch memory of batch normalisation")
        self._threads = norm.threads(*sizes, team.threads)
        both = norm.FORWARD[contiguous], norm.BACKWARD[contiguous]
        self._forward, self._backward = (
            [norm_kernel(plan) for plan in norm.plans(dtype, contiguous, activation, steps)]
            for steps in both
        )

    def forward(self, x: int, y: int, gamma: int, beta: int, table: int, eps: float) -> None:
        """Compute y and fill the table, rows of `padded` numbers named in norm.TABLE."""
        bits = struct.unpack("q", struct.pack("d", eps))[0]
        job = array("q", (*self._words, bits, gamma, beta, table, 0, 0))
        self._run(self._forward, job, x, 0, y)

    def backward(
        self, x: int, dy: int, dx: int, gamma: int, table: int, dgamma: int, dbeta: int
    ) -> None:
        """Compute the three gradients from that of y and the table."""
        job = array("q", (*self._words, 0, gamma, 0, table, dgamma, dbeta))
        self._run(self._backward, job, x, dy, dx)

    def behind(self, activation: str) -> NormCall:
        """The same with an activation behind it."""
        found = self._behind.get(activation)
        if found is None:
            found = NormCall(*self._how, self.sizes, activation, self.team)
            self._behind[activation] = found
        return found

    def _run(self, steps: list[Any], job: array[int], x: int, dy: int, y: int) -> None:
        scratch = memory.take(self._scratch)
        at, team, threads = job.buffer_info()[0], self.team.address, self._threads
        for run in steps:
            run(at, x, dy, y, scratch.address, team, threads)
        memory.give_back(scratch)
