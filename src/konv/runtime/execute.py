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
from konv.kernels import panels
from konv.kernels.digest import CHUNK
from konv.plan import Epilogue, Plan
from konv.runtime import memory, weights
from konv.runtime.choose import choose, pin
from konv.runtime.code import digests, kernel
from konv.runtime.flat import form_of, slimmed
from konv.runtime.job import schedule
from konv.runtime.rows import Head
from konv.runtime.threads import Team
from konv.runtime.watch import WATCH
from konv.runtime.weights import CACHE, Packed, Strides
from konv.target import BYTES

NOTHING = Epilogue()


class Call:
    """`layer` on an input and an output with these strides, in elements, as (batch, channel,
    *spatial), and a weight with its own; by the plan that is chosen, by that of an algorithm named,
    or by one given. `given`: the weight comes with each call, and may be read as it lies.

    `conv` is what is computed, which may be the layer in another `form` (konv.runtime.flat).
    """

    def __init__(
        self,
        layer: Conv,
        x: Strides,
        y: Strides,
        weight: Strides,
        team: Team,
        x_last: bool,
        y_last: bool,
        epilogue: Epilogue = NOTHING,
        plan: str | Plan | None = None,
        given: bool = False,
    ) -> None:
        target = llvm.detect()
        between = layer, x, y, weight
        self.form = form = form_of(*between, target) if plan is None else slimmed(*between)
        self.layer, self.conv, self.team = layer, form.conv, team
        conv, plan = form.conv, form.plan or plan
        if conv.dims < layer.dims:  # what was contiguous by an axis of one pixel may be no more
            x_last, y_last = x_last or form.x[-1] != 1, y_last or form.y[-1] != 1
        how = target, not x_last, not y_last
        if not isinstance(plan, Plan):
            reads = given and panels.reads(conv, form.weight)
            plan = choose(conv, *how, reads) if plan is None else pin(plan, conv, *how)
        self.plan = plan.followed_by(epilogue)
        memory.require(
            weights.packed_bytes(conv, self.plan, target), f"the packed weight of {layer}"
        )
        self.job = schedule(conv, self.plan, target, form.x, form.y, team.threads)
        memory.require(self.job.scratch, f"scratch memory of {layer}")
        self.kernel = kernel(self.plan)
        self.once = kernels.by_name(self.plan.algorithm).once
        self._run, self._address, self._team = self.kernel.run, self.job.address, team.address
        self._scratch, self._threads = self.job.scratch, self.job.threads
        log.event(
            "plan", conv=layer, plan=self.plan, threads=self.job.threads, scratch=self.job.scratch
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

    def __init__(self, call: Call) -> None:
        self.call = call
        self.bytes = call.layer.params * BYTES[call.layer.dtype]
        self.bias_bytes = call.layer.co * BYTES[call.layer.dtype]
        conv, plan, form = call.form.packs, call.plan, call.form
        shape = conv.weight_shape, conv.groups, conv.transposed, form.weight
        how = plan.algorithm, plan.dtype, plan.vectors, plan.form, form.biased
        self.layout = _layouts.setdefault((shape, how), next(_numbers))
        self._digests = digests()  # kept: of two that threads make at once, one is thrown away
        self._digest = self._digests.digest
        self.small = self.bytes <= CHUNK  # else the threads share the work
        self._how = weights.decide(conv, plan, call.kernel.target, form.weight)

    def packed(self, weight: int, bias: int) -> Packed:
        """The packed copy of the weight and bias at these addresses; `bias` 0 means none."""
        if self.small:
            digest = self._digest(weight, self.bytes)
        else:
            team = self.call.team
            how = weight, self.bytes, team.address, team.threads
            digest = WATCH.digest(weight, self.bytes, lambda: weights.digest(*how))
        if bias:
            digest = (digest << 64) + self._digest(bias, self.bias_bytes)
        key: Any = (weight, bias, self.layout)
        found = CACHE.find(key, digest)
        if found is None:
            call, form = self.call, self.call.form
            found = weights.pack(
                form.packs, call.plan, call.kernel, weight, form.weight, bias, digest, call.team,
                CACHE.take(key), self._how, form.biased,
            )  # fmt: skip
            CACHE.add(key, found)
            log.event("pack", conv=call.layer, bytes=found.size)
        return found
