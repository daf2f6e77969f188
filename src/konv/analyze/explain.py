"""One convolution explained: what it costs, how konv would compute it here, how fast that can be.

Nothing is computed for it but the roofline of this machine, and with `seconds` the layer itself.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import chain
from math import prod
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from konv import llvm
from konv.analyze.concepts import COUNTED
from konv.arrays import dense_strides
from konv.errors import UnsupportedError
from konv.geometry import Conv
from konv.kernels import ALGORITHMS, by_name
from konv.llvm import Module
from konv.plan import Plan
from konv.prepared import prepare
from konv.runtime import memory
from konv.runtime.choose import choices, choose, found
from konv.runtime.flat import Form, form_of, leaner, slim
from konv.runtime.job import schedule
from konv.runtime.roofline import Roofline, measure
from konv.runtime.threads import team
from konv.runtime.weights import packed_bytes
from konv.target import BYTES, Target

LAYOUTS = ("contiguous", "channels_last")
ROUNDS = 7  # at least, for a median
SECONDS = 0.5  # of measuring, for each layout


@dataclass(frozen=True, slots=True)
class Road:
    """How a layer is computed in one memory layout of all its arrays; bytes and threads.

    `tuned`: the plan was found by measuring (konv tune), not by the model. `product`: images,
    inputs and outputs of the matrix product that is computed for a layer which is one. `layer`: the
    layer of fewer axes that is computed for one with axes of one pixel and one tap.
    """

    plan: Plan
    tuned: bool
    scratch_bytes: int
    packed_weight_bytes: int
    threads: int
    product: tuple[int, int, int] | None
    layer: str | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """`roads` and `seconds` by layout; `refusals` by algorithm, None for those that would do it."""

    conv: Conv
    target: Target
    roads: dict[str, Road]
    refusals: dict[str, str | None]
    roofline: Roofline
    seconds: dict[str, float] | None

    @property
    def best_seconds(self) -> float:
        """The least time: for the multiply-adds that meet a pixel, or for moving the bytes."""
        return self.roofline.best_seconds(2 * self.conv.exact_macs, self.conv.bytes)

    @property
    def bound(self) -> str:
        """What that least time is spent on: "compute" or "memory"."""
        flops = 2 * self.conv.exact_macs
        return "compute" if flops >= self.roofline.ridge * self.conv.bytes else "memory"


def explain(conv: Conv, seconds: float = 0) -> Explanation:
    """Return what is to be said of a convolution; `seconds`: how long to measure each layout.

    UnsupportedError for measuring bfloat16 without PyTorch: NumPy has none.
    """
    target, crew = llvm.detect(), team()
    roads = {layout: _road(conv, target, layout, crew.threads) for layout in LAYOUTS}
    layer = slim(conv)
    refusals = {algorithm.name: algorithm.why_not(layer, target) for algorithm in ALGORITHMS}
    took = {layout: _measure(conv, layout, seconds) for layout in LAYOUTS} if seconds else None
    roofline = measure(dtype=conv.dtype)
    return Explanation(conv, target, roads, refusals, roofline, took)


def plan_of(conv: Conv, layout: str) -> Plan:
    """Return the plan that is chosen where input, weight and output lie in a layout."""
    return _chosen(conv, llvm.detect(), layout)[1]


def plans_of(conv: Conv, layout: str) -> tuple[Plan, ...]:
    """Return the plans of a layer in that layout over all image sizes, those with one pixel along
    an axis too, and that of this size where it is a product (konv.runtime.flat).
    """
    target, contiguous = llvm.detect(), layout == "contiguous"
    product = _form(conv, target, layout).plan
    every = [choices(each, target, contiguous, contiguous) for each in leaner(conv)]
    return tuple(dict.fromkeys((*((product,) if product else ()), *chain(*every))))


def _form(conv: Conv, target: Target, layout: str) -> Form:
    """What is computed for a layer whose arrays lie in a layout."""
    shapes = conv.in_shape, conv.out_shape, conv.weight_shape
    x, y, weight = (dense_strides(shape, layout == "channels_last") for shape in shapes)
    return form_of(conv, x, y, weight, target)


def _chosen(conv: Conv, target: Target, layout: str) -> tuple[Form, Plan]:
    """That, and how it is computed."""
    form, contiguous = _form(conv, target, layout), layout == "contiguous"
    return form, form.plan or choose(form.conv, target, contiguous, contiguous)


def module_of(conv: Conv, layout: str) -> Module:
    """Return the module of that plan, for its IR or assembly."""
    plan = plan_of(conv, layout)
    return by_name(plan.algorithm).emit(plan, llvm.detect())


def _road(conv: Conv, target: Target, layout: str, threads: int) -> Road:
    (form, plan), last = _chosen(conv, target, layout), layout == "channels_last"
    tuned = not form.plan and found(form.conv, target, not last, not last) is not None
    job = schedule(form.conv, plan, target, form.x, form.y, threads)
    product = (conv.n, form.conv.ci, form.conv.co) if form.plan else None
    packed = packed_bytes(form.conv, plan, target)
    layer = None if form.plan or form.conv == conv else str(form.conv)
    return Road(plan, tuned, job.scratch, packed, job.threads, product, layer)


def _measure(conv: Conv, layout: str, seconds: float) -> float:
    """Return the median time, weights packed beforehand, always into the same output."""
    memory.require(conv.bytes, f"input, weight and output of {conv}")
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype("float32") for s in (conv.in_shape, conv.weight_shape))
    y = np.zeros(conv.out_shape, "float32")
    x, w, y = (_in_dtype(_laid_out(a, layout), conv.dtype) for a in (x, w, y))
    layer = prepare(conv, w)
    layer(x, out=y)
    times: list[float] = []
    begin = perf_counter()
    while len(times) < ROUNDS or perf_counter() - begin < seconds:
        start = perf_counter()
        layer(x, out=y)
        times.append(perf_counter() - start)
    return median(times)


def _in_dtype(a: np.ndarray[Any, Any], dtype: str) -> Any:
    """The array, or a tensor for what NumPy lacks, with the strides that it has."""
    if dtype != "bfloat16":
        return a.astype(dtype)
    try:
        import torch
    except ImportError:
        raise UnsupportedError(
            "NumPy has no bfloat16, so measuring it takes PyTorch: pip install konv[torch]. Or "
            "measure f16."
        ) from None
    return torch.from_numpy(a).bfloat16()


def _laid_out(a: np.ndarray[Any, Any], layout: str) -> np.ndarray[Any, Any]:
    if layout == "contiguous":
        return a
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


def as_json(found: Explanation) -> dict[str, Any]:
    """Return everything as numbers, lists and words; the keys stay.

    conv, kind, dtype, in_shape, weight_shape, out_shape, formula, counted: how; params, macs,
    exact_macs, receptive_field, bytes (input, weight, output), flops_a_byte;
    target (cpu, vector_bytes, registers, l2), algorithms (name -> null or why not),
    plans (by layout: plan, tuned, scratch_bytes, packed_weight_bytes, threads, product: sizes of
    the matrix product that the layer is, or null, layer: that of fewer axes, or null), roofline,
    bound ("compute" or "memory"), best_seconds, seconds (by layout; null if not measured)
    """
    conv, target = found.conv, found.target
    shapes = {"input": conv.in_shape, "weight": conv.weight_shape, "output": conv.out_shape}
    return {
        "conv": str(conv),
        "kind": sorted(conv.kind),
        "dtype": conv.dtype,
        "in_shape": list(conv.in_shape),
        "weight_shape": list(conv.weight_shape),
        "out_shape": list(conv.out_shape),
        "formula": conv.formula().splitlines(),
        "counted": COUNTED,
        "params": conv.params,
        "macs": conv.macs,
        "exact_macs": conv.exact_macs,
        "receptive_field": list(conv.receptive_field),
        "bytes": {name: prod(shape) * BYTES[conv.dtype] for name, shape in shapes.items()},
        "flops_a_byte": conv.intensity,
        "target": {
            name: getattr(target, name) for name in ("cpu", "vector_bytes", "registers", "l2")
        },
        "algorithms": found.refusals,
        "plans": {layout: _road_json(road) for layout, road in found.roads.items()},
        "roofline": asdict(found.roofline),
        "bound": found.bound,
        "best_seconds": found.best_seconds,
        "seconds": found.seconds,
    }


def _road_json(road: Road) -> dict[str, Any]:
    return asdict(road) | {"plan": {"text": str(road.plan)} | asdict(road.plan)}
