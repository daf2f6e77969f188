"""Run a convolution on addresses. Everything that can be decided before the call is decided once,
in a `Call`.

A Call is one problem at one size in one pair of memory layouts: its plan, its job, its kernel. It
takes addresses and asks no questions; who calls it has checked shapes, dtypes and layouts.
"""

from __future__ import annotations

from itertools import count
from typing import Any

from konv import kernels, llvm, log
from konv.geometry import Conv
from konv.kernels.digest import CHUNK
from konv.plan import Epilogue, Plan
from konv.runtime import memory, weights
from konv.runtime.choose import choose, pin
from konv.runtime.code import digests, kernel
from konv.runtime.job import schedule
from konv.runtime.rows import Head
from konv.runtime.threads import Team
from konv.runtime.weights import CACHE, Packed, Strides
from konv.target import BYTES

NOTHING = Epilogue()


class Call:
    """`conv` on an input and an output with these strides, in elements, as (batch, channel,
    *spatial); by the plan that is chosen, by that of an algorithm named, or by one given. `reads`:
    as of konv.runtime.choose.
    """

    def __init__(
        self,
        conv: Conv,
        x: Strides,
        y: Strides,
        team: Team,
        x_last: bool,
        y_last: bool,
        epilogue: Epilogue = NOTHING,
        plan: str | Plan | None = None,
        reads: bool = False,
    ) -> None:
        target = llvm.detect()
        self.conv, self.team = conv, team
        how = conv, target, not x_last, not y_last
        if not isinstance(plan, Plan):
            plan = choose(*how, reads) if plan is None else pin(plan, *how)
        self.plan = plan.followed_by(epilogue)
        memory.require(
            weights.packed_bytes(conv, self.plan, target), f"the packed weight of {conv}"
        )
        self.job = schedule(conv, self.plan, target, x, y, team.threads)
        memory.require(self.job.scratch, f"scratch memory of {conv}")
        self.kernel = kernel(self.plan)
        self.once = kernels.by_name(self.plan.algorithm).once
        self._run, self._address, self._team = self.kernel.run, self.job.address, team.address
        self._scratch, self._threads = self.job.scratch, self.job.threads
        log.event(
            "plan", conv=conv, plan=self.plan, threads=self.job.threads, scratch=self.job.scratch
        )

    def run(self, x: int, packed: Packed | Head, y: int, residual: int | None = None) -> None:
        """Compute y from x with packed weights; `residual` lies in memory as y does."""
        job, team, threads = self._address, self._team, self._threads
        scratch = memory.take(self._scratch)
        if residual is None:
            self._run(job, x, packed.address, y, scratch.address, team, threads)
        else:
            apart = residual - y
            self._run(job, x, packed.address, y, scratch.address, team, threads, apart)
        memory.give_back(scratch)


_numbers = count()
_layouts: dict[Any, int] = {}  # a number for each way to lie and to be packed: quick to look up


class Weights:
    """How the weights of a call are found again: by address, layout and digest."""

    def __init__(self, call: Call, strides: Strides) -> None:
        self.call, self.strides = call, strides
        self.bytes = call.conv.params * BYTES[call.conv.dtype]
        self.bias_bytes = call.conv.co * BYTES[call.conv.dtype]
        conv, plan = call.conv, call.plan
        shape = conv.weight_shape, conv.groups, conv.transposed, strides
        how = plan.algorithm, plan.dtype, plan.vectors, plan.form
        self.layout = _layouts.setdefault((shape, how), next(_numbers))
        self._digests = digests()  # kept: of two that threads make at once, one is thrown away
        self._digest = self._digests.digest
        self._small = self.bytes <= CHUNK  # else the threads share the work
        self._how = weights.decide(conv, plan, call.kernel.target, strides)

    def packed(self, weight: int, bias: int) -> Packed:
        """The packed copy of the weight and bias at these addresses; `bias` 0 means none."""
        if self._small:
            digest = self._digest(weight, self.bytes)
        else:
            team = self.call.team
            digest = weights.digest(weight, self.bytes, team.address, team.threads)
        if bias:
            digest = (digest << 64) + self._digest(bias, self.bias_bytes)
        key: Any = (weight, bias, self.layout)
        found = CACHE.find(key, digest)
        if found is None:
            call = self.call
            found = weights.pack(
                call.conv, call.plan, call.kernel, weight, self.strides, bias, digest, call.team,
                CACHE.take(key), self._how,
            )  # fmt: skip
            CACHE.add(key, found)
            log.event("pack", conv=call.conv, bytes=found.size)
        return found
