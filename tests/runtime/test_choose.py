"""Choosing: which plan, for what reason, and what it must not look at."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import fields, replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from functional.check import forget, recording, threads
from functional.check import plans as recorded
from geometry.strategies import convs
from hypothesis import given

import konv
from konv import kernels, llvm
from konv.errors import ProblemError
from konv.geometry import Axis, Conv, read_problems
from konv.kernels import ALGORITHMS, depthwise, direct, interleave, subpixel
from konv.plan import Algorithm, Plan
from konv.runtime import choose as module
from konv.runtime.choose import choose, current_precision, precision
from konv.target import Target

FOLDER = Path(__file__).resolve().parents[2] / "problems"
PROBLEMS = [
    conv
    for file in sorted(FOLDER.glob("*.txt"))
    for _, conv in read_problems(file.read_text("utf-8"))
]
LAYOUTS = list(product((True, False), repeat=2))
TARGETS = {
    "sse": Target("x86_64-linux-gnu", "x86-64", (), 16, 16),
    "avx2": Target("x86_64-linux-gnu", "haswell", (), 32, 16),
    "avx512": Target("x86_64-linux-gnu", "skylake-avx512", (), 64, 32),
    "neon": Target("aarch64-linux-gnu", "cortex-a72", (), 16, 32),
}
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: str(a.name))
every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


# What it must not look at

CHANGING = {
    "n", "in_shape", "out_shape", "macs", "exact_macs", "bytes", "intensity", "size", "out",
    "padded", "taps", "reads", "source", "overhang", "phases", "adjoint", "weight_adjoint",
    "with_size", "with_batch",
}  # fmt: skip


class Blind:
    """A problem or an axis that will not say how large it is."""

    def __init__(self, whole: Conv | Axis) -> None:
        self._whole = whole

    def __getattr__(self, name: str) -> Any:
        if name in CHANGING:
            raise AssertionError(f"choosing has looked at {name}")
        found = getattr(self._whole, name)
        return tuple(map(Blind, found)) if name == "axes" else found


@every_target
def test_size_and_batch_are_not_looked_at(target: Target) -> None:
    """Not even asked for: a problem that raises when they are gets the same plan."""
    for conv, (packed, blocked) in product(PROBLEMS, LAYOUTS):
        blind: Any = Blind(conv)
        assert choose(blind, target, packed, blocked) == choose(conv, target, packed, blocked)


def test_this_can_fail() -> None:
    blind: Any = Blind(PROBLEMS[0])
    with pytest.raises(AssertionError, match="looked at size"):
        _ = blind.axes[0].size


def test_the_same_plan_at_every_size() -> None:
    target, sizes = llvm.detect(), (1, 2, 7, 31, 500)
    for conv in PROBLEMS:
        for packed, blocked in LAYOUTS:
            plans = {choose(conv, target, packed, blocked)}
            for n, extra in product((0, 1, 64), sizes):
                large = [axis.size + extra for axis in conv.axes]
                other = conv.with_batch(n).with_size(*large)
                plans.add(choose(other, target, packed, blocked))
            assert len(plans) == 1, f"{conv}: {plans}"


def test_the_same_plan_for_any_number_of_threads() -> None:
    """Nor by cache, which only says how much a thread takes at a time."""
    x, w = np.ones((2, 5, 40, 40), "float32"), np.ones((20, 5, 3, 3), "float32")
    plans = set[Plan]()
    for count in (1, 2, 5):
        with threads(count), recording() as jobs:
            forget()
            konv.conv2d(x, w)
            plans.add(recorded[Conv.of(x.shape, 20, 3)])
            assert [job.threads for job in jobs] == [count]
    assert len(plans) == 1
    target = llvm.detect()
    for conv in PROBLEMS:
        small = choose(conv, replace(target, l2=1), True, True)
        assert small == choose(conv, replace(target, l2=2**40), True, True)


def test_plans_have_no_field_for_it() -> None:
    assert {field.name for field in fields(Plan)} == {
        "algorithm", "dtype", "packed", "blocked", "pixels", "vectors", "tail", "odd", "depth",
        "alignment", "form",
    }  # fmt: skip


# The protocol


@every_target
@every_algorithm
def test_protocol(algorithm: Algorithm, target: Target) -> None:
    """Names, flags, refusals in words, and plans that say what was asked for, none twice."""
    assert kernels.by_name(algorithm.name) is algorithm
    assert [a.name for a in ALGORITHMS].count(algorithm.name) == 1
    assert isinstance(algorithm.exact, bool)
    for conv, (packed, blocked) in product(PROBLEMS, LAYOUTS):
        refusal = algorithm.why_not(conv, target)
        if refusal is not None:
            assert refusal == refusal.strip()
            assert len(refusal.split()) > 3
            continue
        plans = algorithm.plans(conv, target, packed, blocked)
        assert plans
        assert len(set(plans)) == len(plans), f"{conv}: {plans}"
        for plan in plans:
            follows(plan, algorithm, conv, target)
            assert (plan.packed, plan.blocked) == (packed, blocked)


def follows(plan: Plan, algorithm: Algorithm, conv: Conv, target: Target) -> None:
    """A plan fits its problem, and its sums and one vector of weights fit into registers."""
    lanes = target.lanes(conv.dtype)
    co = conv.co if algorithm is depthwise else conv.co // conv.groups
    if algorithm is subpixel:
        co *= prod(axis.up for axis in conv.axes)
    assert (plan.algorithm, plan.dtype) == (algorithm.name, conv.dtype)
    assert plan.pixels >= 1
    assert plan.vectors >= 1
    assert plan.pixels * plan.vectors + plan.vectors < target.registers
    assert 0 <= plan.tail <= plan.vectors
    assert 0 <= plan.odd < lanes
    assert plan.odd in (0, co % lanes)
    assert plan.depth in (0, conv.ci // conv.groups)
    assert plan.alignment >= 1
    vectors = -(-co // lanes)
    if algorithm is interleave:  # whose blocks are alike, and filled up
        vectors = -(-vectors // plan.vectors) * plan.vectors
    assert (vectors - plan.tail) % plan.vectors == 0, "blocks and tail are not all vectors"
    assert vectors >= plan.tail
    if plan.odd:
        assert plan.tail, "the odd vector is in no block of its own"
    hash(plan)
    assert plan.algorithm in str(plan)


@every_algorithm
def test_emits(algorithm: Algorithm) -> None:
    """The first and the last plan of a problem become machine code that exports run and pack."""
    target = llvm.detect()
    conv = next(conv for conv in PROBLEMS if algorithm.why_not(conv, target) is None)
    for plan in algorithm.plans(conv, target, True, False)[:: max(1, len(TARGETS) - 1)]:
        loaded = llvm.load(llvm.object_bytes(algorithm.emit(plan, target)), target)
        assert loaded.address("run")
        assert loaded.address("pack")
        with pytest.raises(LookupError):
            loaded.address("no such function")


def test_order() -> None:
    """Most special first; the one that takes all is the last."""
    assert ALGORITHMS[-1] is direct
    order = [ALGORITHMS.index(a) for a in (depthwise, subpixel, interleave, direct)]
    assert order == sorted(order)
    with pytest.raises(StopIteration):
        kernels.by_name("no such algorithm")


@given(convs())
def test_direct_never_refuses(conv: Conv) -> None:
    """Whatever can be a convolution; on every machine it has a plan."""
    for target in TARGETS.values():
        assert direct.why_not(conv, target) is None
        for packed, blocked in LAYOUTS:
            if conv.dtype in ("float32", "float64"):
                for plan in direct.plans(conv, target, packed, blocked):
                    follows(plan, direct, conv, target)
                assert choose(conv, target, packed, blocked)


def test_every_problem_gets_the_most_special() -> None:
    target = llvm.detect()
    chosen = [choose(conv, target, True, True) for conv in PROBLEMS]
    for conv, plan in zip(PROBLEMS, chosen, strict=True):
        takers = [a.name for a in ALGORITHMS if a.why_not(conv, target) is None]
        assert plan.algorithm == takers[0], str(conv)
    assert {plan.algorithm for plan in chosen} == {algorithm.name for algorithm in ALGORITHMS}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("conv2d 1x8x9x9 o8 k3", "takes one channel in and out a group; here 8 and 8"),
        ("conv2d 1x8x9x9 o8 k3 g4", "takes one channel in and out a group; here 2 and 2"),
        ("conv2d 1x8x9x9 o16 k3 g8", "takes one channel in and out a group; here 1 and 2"),
        ("conv2d 1x1x9x9 o1 k3", "has one channel only, which would fill one lane of a vector"),
        ("conv2d 1x8x9x9 o8 k3 g8", None),
        ("tconv2d 1x8x9x9 o8 k3 s2 g8", None),
    ],
)
def test_why_depthwise_does_not(line: str, says: str | None) -> None:
    assert depthwise.why_not(Conv.parse(line), llvm.detect()) == says


GAPS = "takes transposed layers with a stride; here no zeros are inserted"
STEPS = "takes no dilation or second stride beside the stride of 2"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("conv2d 1x8x9x9 o8 k3 s2", GAPS),
        ("tconv2d 1x8x9x9 o8 k3", GAPS),
        ("tconv2d 1x8x9x9 o8 k4 s2 d2", STEPS),
        ("tconv2d 1x8x9x9 o64 k4 s2 p1", "would multiply more than with channels in the lanes"),
        ("tconv2d 1x8x9x9 o64 k3 s2", "would multiply more than with channels in the lanes"),
        ("tconv2d 1x8x9x9 o64 k2 s2", None),
        ("tconv2d 1x8x9x9 o3 k4 s2 p1", None),
        ("tconv2d 1x21x9x9 o21 k16 s8", None),
    ],
)
def test_why_subpixel_does_not(line: str, says: str | None) -> None:
    found = subpixel.why_not(Conv.parse(line), TARGETS["avx512"])
    assert (found is None) == (says is None), found
    assert (found or "").startswith(says or "")


def test_subpixel_leaves_lanes_out_only_where_that_is_free() -> None:
    conv = Conv.parse("tconv2d 1x8x9x9 o3 k3 s2 p1")
    assert subpixel.why_not(conv, TARGETS["avx512"]) is None
    says = "takes kernels that are multiples of stride 2; here 3"
    assert subpixel.why_not(conv, TARGETS["avx2"]) == says


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("conv2d 1x8x9x9 o8 k3 s2", GAPS),
        ("tconv2d 1x8x9x9 o8 k4 s2 d2", STEPS),
        (
            "tconv1d 1x8x9 o64 k16 s9",
            "takes up to 64 sub-pixels between inputs, 8 on the",
        ),
        ("tconv2d 1x8x9x9 o64 k16 s16x8", "takes up to 64 sub-pixels between inputs"),
        ("tconv2d 1x8x9x9 o64 k3 s2", None),
        ("tconv2d 1x8x9x9 o64 k3 s8", None),
    ],
)
def test_why_interleave_does_not(line: str, says: str | None) -> None:
    found = interleave.why_not(Conv.parse(line), llvm.detect())
    assert (found is None) == (says is None), found
    assert (found or "").startswith(says or "")


@every_target
@pytest.mark.parametrize("algorithm", [subpixel, interleave], ids=lambda a: str(a.name))
def test_costs(algorithm: Any, target: Target) -> None:
    """Of one image, in proportion to its pixels, whatever the batch; the first plan's tiles are the
    cheapest.
    """
    mine = [conv for conv in PROBLEMS if algorithm.why_not(conv, target) is None]
    assert len(mine) >= 5
    for conv, layouts in product(mine, LAYOUTS):
        plan = algorithm.plans(conv, target, *layouts)[0]
        cost = algorithm.cost(conv, plan, target)
        assert cost > 0
        assert algorithm.cost(conv.with_batch(7), plan, target) == cost
        large = conv.with_size(*(200 for _ in conv.axes))
        twice = conv.with_size(*(400 for _ in conv.axes))
        ratio = algorithm.cost(twice, plan, target) / algorithm.cost(large, plan, target)
        assert 0.9 < ratio / 2**conv.dims < 1.1


# Precision


class Rough:
    """Direct, told to be an algorithm whose error bound is larger."""

    name, exact = "rough", False
    emit, work, packing = map(staticmethod, (direct.emit, direct.work, direct.packing))

    def why_not(self, conv: Conv, target: Target) -> str | None:
        return None

    def plans(self, conv: Conv, target: Target, *layouts: bool) -> tuple[Plan, ...]:
        return tuple(replace(p, algorithm="rough") for p in direct.plans(conv, target, *layouts))


@pytest.fixture
def rough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.kernels, "ALGORITHMS", (Rough(), *ALGORITHMS))


def chosen() -> str:
    return choose(PROBLEMS[0], llvm.detect(), True, True).algorithm


@pytest.mark.usefixtures("rough")
def test_exact_forbids_what_is_rough() -> None:
    assert (current_precision(), chosen()) == ("fast", "rough")
    with precision("exact"):
        assert (current_precision(), chosen()) == ("exact", "direct")
        with precision("fast"):
            assert chosen() == "rough"
        assert chosen() == "direct"
    assert chosen() == "rough"


def test_as_a_function() -> None:
    """It holds from there on; another call puts it back."""
    with precision("fast"):
        konv.precision("exact")
        assert current_precision() == "exact"
        konv.precision("fast")
        assert current_precision() == "fast"
        konv.precision("exact")
    assert current_precision() == "fast"


def test_an_error_in_the_block_puts_it_back() -> None:
    with pytest.raises(KeyError), precision("exact"):
        raise KeyError
    assert current_precision() == "fast"


def test_belongs_to_the_thread_that_set_it() -> None:
    seen = dict[str, str]()
    inside, checked = threading.Event(), threading.Event()

    def exact() -> None:
        precision("exact")
        inside.set()
        checked.wait(10)
        seen["own"] = current_precision()

    def other() -> None:
        inside.wait(10)
        seen["other"] = current_precision()
        checked.set()

    crowd = [threading.Thread(target=f) for f in (exact, other)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert seen == {"own": "exact", "other": "fast"}
    assert current_precision() == "fast"


def test_belongs_to_the_task_that_set_it() -> None:
    async def one(mode: Any) -> str:
        with precision(mode):
            await asyncio.sleep(0.001)
            return current_precision()

    async def both() -> list[str]:
        return list(await asyncio.gather(one("exact"), one("fast"), one("exact")))

    assert asyncio.run(both()) == ["exact", "fast", "exact"]


@pytest.mark.parametrize("mode", ["Exact", "", None, 1, "high", ["exact"]])
def test_bad_mode(mode: Any) -> None:
    with pytest.raises(ProblemError, match=r'is no precision\. Use "exact" or "fast"\.'):
        precision(mode)
    assert current_precision() == "fast"
