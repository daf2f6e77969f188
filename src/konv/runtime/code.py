"""Compiled kernels: in memory, on disk, or made now. A plan in, functions to call out.

A kernel is compiled once per plan and machine and kept for as long as the process lives: a network
has a dozen. On disk its object bytes are found by a digest of everything that they depend on, so
that a hit builds no IR.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any

from konv import kernels, llvm, log
from konv.kernels import builtin as bridge
from konv.kernels import digest, gradient, norm, single
from konv.kernels.gradient import fourier as gradient_fourier
from konv.kernels.gradient import pencils as gradient_pencils
from konv.kernels.gradient import planar as gradient_planar
from konv.kernels.gradient import rows as gradient_rows
from konv.kernels.gradient import winograd as gradient_winograd
from konv.kernels.region import RUN, RUN_WITH_RESIDUAL
from konv.plan import Plan
from konv.runtime import builtin, store
from konv.runtime.cores import allowed
from konv.target import Target

LEARNT = 48  # kernels on disk whose pieces a process learns: 0.15 ms each, of 30 KB


@dataclass(frozen=True, slots=True)
class Kernel:
    """`run(job, x, weights, y, scratch, team, threads)`, with the residual's distance from y where
    the plan has one, and `pack(job, weights, bias, packed, scratch, team, threads)`: they take
    integers and addresses.
    """

    plan: Plan
    target: Target
    run: Callable[..., Any]
    pack: Callable[..., Any]
    loaded: llvm.Loaded


@dataclass(frozen=True, slots=True)
class Digests:
    """`digest(data, bytes)` of one piece, `run` for the chunks of a large one, and `watched(data,
    record)` of one that is watched.
    """

    digest: Callable[..., int]
    run: Callable[..., Any]
    watched: Callable[..., int]
    loaded: llvm.Loaded


# Kernels at hand; others live as long as the layers that use them. Machine code has some dozen
# mappings of memory a kernel, of which Linux allows a process 65,530: beyond, LLVM leaves code that
# may not be run, and its first call ends the process.
KEPT = 1024

_kernels: dict[Plan, Kernel] = {}
_others: dict[Plan, Callable[..., Any]] = {}  # the same of those that pack no weights
_lock = Lock()


def kernel(plan: Plan) -> Kernel:
    """The kernel of a plan on this machine, compiled at the first call."""
    if plan.alignment != 1:  # it says where crops may begin, and stands in no code
        plan = replace(plan, alignment=1)
    found = _kernels.get(plan)
    if found is None:
        with _lock:
            found = _kernels.get(plan) or _load(plan)
            if len(_kernels) >= KEPT and plan not in _kernels:
                _kernels.clear()
            _kernels[plan] = found
    return found


def gradient_kernel(plan: Plan) -> Callable[..., Any]:
    """`run` of a weight gradient's kernel, compiled at the first call."""
    algorithms = (
        gradient, gradient_planar, gradient_rows, gradient_pencils, gradient_winograd,
        gradient_fourier,
    )  # fmt: skip
    return _run(plan, {g.name: g.emit for g in algorithms}[plan.algorithm])


def single_kernel(plan: Plan) -> Callable[..., Any]:
    """`run` of the kernel for one pixel, compiled at the first call."""
    return _run(plan, single.emit)


def norm_kernel(plan: Plan) -> Callable[..., Any]:
    """`run` of a step of batch normalisation, compiled at the first call."""
    return _run(plan, norm.emit)


def _run(plan: Plan, emit: Callable[[Plan, Target], llvm.Module]) -> Callable[..., Any]:
    """`run` of a kernel that packs no weights."""
    found = _others.get(plan)
    if found is None:
        with _lock:
            found = _others.get(plan)
            if found is None:
                target = llvm.detect()
                loaded = compiled(repr(plan), str(plan), target, lambda: emit(plan, target))
                found = _function(loaded, "run", len(RUN))
                if len(_others) >= KEPT:
                    _others.clear()
                _others[plan] = found
    return found


def renew_lock() -> None:
    """After a fork: another thread of the parent may have held it."""
    global _lock
    _lock = Lock()


def _load(plan: Plan) -> Kernel:
    target = llvm.detect()
    algorithm = kernels.by_name(plan.algorithm)
    loaded = compiled(repr(plan), str(plan), target, lambda: algorithm.emit(plan, target))
    return Kernel(
        plan,
        target,
        _function(loaded, "run", len(RUN_WITH_RESIDUAL if plan.residual else RUN)),
        _function(loaded, "pack", len(RUN)),
        loaded,
    )


@cache
def digests() -> Digests:
    """The functions that tell whether a weight has changed."""
    target = llvm.detect()
    loaded = compiled("digest", "digest", target, lambda: digest.emit(target))
    run = _function(loaded, "run", len(RUN))
    return Digests(_function(loaded, "digest", 2), run, _function(loaded, "watched", 2), loaded)


def _function(loaded: llvm.Loaded, name: str, arguments: int) -> Callable[..., int]:
    """An exported function that takes so many integers; it releases the GIL, and keeps its code."""
    way = _bridge()
    if way is None:
        function = loaded.function(name, arguments)
        function.loaded = loaded
        return function  # type: ignore[no-any-return]  # of ctypes
    return builtin.function(way, loaded.address(name), arguments, loaded)


@cache
def _bridge() -> llvm.Loaded | None:
    """What makes built-in functions of machine code; None: ctypes must do."""
    if not builtin.known():
        return None
    target, header = llvm.detect(), builtin.HEADER
    return compiled(f"builtin {header}", "builtin", target, lambda: bridge.emit(target, header))


def compiled(what: str, label: str, target: Target, emit: Callable[[], llvm.Module]) -> llvm.Loaded:
    """Machine code of `what`: out of the cache on disk, or emitted, built and kept there.

    `label` is how `konv cache show` and the log call it.
    """
    begin = perf_counter()
    key = store.key(what, target)
    code = store.fetch(key)
    if code is not None:
        try:
            loaded = llvm.load(code, target)
            log.event("load", what=label, ms=1e3 * (perf_counter() - begin))
            return loaded
        except RuntimeError:  # no object file after all: a miss, as any other fault of the cache
            pass
    _learn(store.folder())
    code = llvm.object_bytes(emit(), store.key("pieces", target), _threads())
    store.keep(key, code, label)
    loaded = llvm.load(code, target)
    log.event("compile", what=label, ms=1e3 * (perf_counter() - begin))
    return loaded


def _threads() -> int:
    """How many threads compile: as many as kernels run on, if there is a core for each."""
    from konv.runtime.threads import get_num_threads  # here: our own threads are compiled, too

    return min(get_num_threads(), allowed())


@cache
def _learn(place: Path | None) -> None:  # noqa: ARG001 - another cache holds other kernels
    """Before a process compiles its first kernel: what kernels of others share with it
    (konv.llvm.pieces) need not be compiled again.
    """
    for code in store.latest(LEARNT):
        with suppress(RuntimeError):
            llvm.learn(code)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=renew_lock)
