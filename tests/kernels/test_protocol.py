"""What every algorithm keeps: names, refusals, plans, costs; and what is each one's own."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import isfinite, prod

import pytest
from geometry.strategies import convs
from hypothesis import given
from kernels.layers import LAYOUTS, PROBLEMS, SIZES, SOME, TARGETS, sized

from konv import kernels, llvm
from konv.geometry import Conv
from konv.kernels import (
    ALGORITHMS,
    depthwise,
    direct,
    interleave,
    passes,
    planar,
    subpixel,
)
from konv.kernels.planar.pair import Pair
from konv.kernels.subpixel.grid import Grid
from konv.plan import Algorithm, Plan
from konv.target import Target

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: str(a.name))
every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


@every_target
@every_algorithm
def test_protocol(algorithm: Algorithm, target: Target) -> None:
    """Names, flags, refusals in words, and plans that say what was asked for, none twice."""
    assert kernels.by_name(algorithm.name) is algorithm
    assert [a.name for a in ALGORITHMS].count(algorithm.name) == 1
    assert isinstance(algorithm.exact, bool)
    assert algorithm.words[0] == "units"
    assert len(set(algorithm.words)) == len(algorithm.words)
    for conv in PROBLEMS:
        refusal = algorithm.why_not(conv, target)
        if refusal is not None:
            assert refusal == refusal.strip()
            assert len(refusal.split()) > 3
            continue
        every = [(pair, algorithm.plans(conv, target, *pair)) for pair in LAYOUTS]
        assert any(plans for _, plans in every), f"{algorithm.name} takes {conv} in no layout"
        few = algorithm is direct and conv.groups == 1 and conv.ci <= direct.MOST
        for (packed, blocked), plans in every:
            assert len(set(plans)) == len(plans), f"{conv}: {plans}"
            for plan in plans:
                follows(plan, algorithm, conv, target)
                assert plan.blocked == blocked
                # For runs of taps, or rows; deep ones to go in passes.
                deep = algorithm is direct and plan.form == direct.PASSES and passes.is_deep(conv)
                assert plan.packed == packed or ((few or deep) and plan.packed)


def follows(plan: Plan, algorithm: Algorithm, conv: Conv, target: Target) -> None:
    """A plan fits its problem, in what holds for all algorithms and in what its own says."""
    assert (plan.algorithm, plan.dtype) == (algorithm.name, conv.dtype)
    assert plan.pixels >= 1
    assert plan.vectors >= 1
    assert plan.alignment >= 1
    hash(plan)
    assert plan.algorithm in str(plan)
    blocks = algorithm.blocks(conv, plan, target)
    for count, tile in (blocks.pixels, blocks.co, blocks.ci, blocks.groups):
        assert count >= 1
        assert tile >= 1
    if own := FOLLOWS.get(algorithm.name):
        own(plan, conv, target)


def follows_tiles(plan: Plan, conv: Conv, target: Target) -> None:
    """Sums and one vector of weights fit into registers; blocks and tail are all vectors."""
    lanes = target.lanes(conv.dtype)
    co = conv.co if plan.algorithm == depthwise.name else conv.co // conv.groups
    assert plan.pixels * plan.vectors + plan.vectors < target.registers
    assert 0 <= plan.tail <= plan.vectors
    assert 0 <= plan.odd < lanes
    assert plan.odd in (0, co % lanes)
    runs = (1, conv.axes[-1].kernel if conv.groups == 1 and plan.packed else 1)  # taps as one
    assert plan.depth in (0, *(run * conv.ci // conv.groups for run in runs))
    vectors = -(-co // lanes)
    assert (vectors - plan.tail) % plan.vectors == 0, "blocks and tail are not all vectors"
    assert vectors >= plan.tail
    if plan.odd:
        assert plan.tail, "the odd vector is in no block of its own"
    flat = (0, plan.form[-1] if plan.form else 0)
    assert plan.form in ((), direct.PASSES, (conv.axes[-1].stride * conv.ci,), flat)
    if plan.form == flat:  # along pixels: the last block's tile fits, too
        assert prod(axis.kernel * axis.stride for axis in conv.axes) == 1
        last = plan.tail or plan.vectors
        assert plan.form[1] * last + last < target.registers
    elif plan.form == direct.PASSES:
        assert plan.packed
        assert passes.is_deep(conv)
        assert plan.depth == 0
    elif plan.form:  # along rows
        assert plan.packed
        run = conv.axes[-1].kernel * conv.ci
        assert plan.depth in (run, conv.ci)  # all taps of a row, or one, of few channels
        assert plan.depth == run <= direct.DEEPEST or conv.ci <= direct.MOST


def follows_planes(plan: Plan, conv: Conv, target: Target) -> None:
    """Sums, the vectors of inputs and one weight fit into registers; tiles are whole vectors."""
    co, (nc, tail, jump, kept) = conv.co // conv.groups, plan.form[:4]
    pair = Pair.from_form(plan)
    sums = nc * plan.vectors * (2 if pair else 1)
    assert plan.pixels == plan.vectors * target.lanes(conv.dtype)
    assert 1 <= nc <= min(co, planar.MOST)
    assert tail == co % nc
    assert sums + plan.vectors + 1 <= target.registers
    assert pair is None or (pair == Pair.of(conv.axes[-1]) and plan.blocked)
    assert (jump, kept) in {(0, 0), (1, 1), (2, 1), (2, 2)}
    assert plan.packed or not jump, "channels-last rows are not copied by vectors"
    assert (plan.tail, plan.odd, plan.depth) == (0, 0, 0)


def follows_cells(plan: Plan, conv: Conv, target: Target) -> None:
    """Sums and one vector of weights fit into registers; blocks and tail are all columns, or those
    of sweeps are filled up.
    """
    co, lanes, grid = conv.co // conv.groups, target.lanes(conv.dtype), Grid.from_form(plan)
    assert plan.pixels * plan.vectors + plan.vectors < target.registers
    assert 0 <= plan.tail <= plan.vectors
    assert plan.odd == 0, "all goes through a block, or fills vectors"
    assert plan.depth in (0, conv.ci // conv.groups)
    assert grid.form == plan.form[: len(grid.form)]
    assert grid.subpixels == prod(axis.up for axis in conv.axes)
    if plan.algorithm == interleave.name:
        assert plan.tail == 0
    else:
        vectors = -(-co * grid.subpixels // lanes)
        assert vectors >= plan.tail
        assert (vectors - plan.tail) % plan.vectors == 0, "blocks and tail are not all vectors"


FOLLOWS = {
    "depthwise": follows_tiles,
    "direct": follows_tiles,
    "planar": follows_planes,
    "subpixel": follows_cells,
    "interleave": follows_cells,
}


def hold_no_sizes(conv: Conv, algorithm: Algorithm, target: Target) -> None:
    """An algorithm that takes a layer at two sizes has the same plans for both, in whatever order:
    the plan that is made for a typical size serves all.
    """
    taken = [
        other
        for other in (conv, *(sized(conv, size) for size in SIZES))
        if other is not None and algorithm.why_not(other, target) is None
    ]
    for layouts in LAYOUTS:
        plans = [set(algorithm.plans(other, target, *layouts)) for other in taken]
        assert all(found == plans[0] for found in plans), f"{algorithm.name}: {conv}"


@every_target
@every_algorithm
def test_plans_hold_no_sizes(algorithm: Algorithm, target: Target) -> None:
    for conv in PROBLEMS:
        hold_no_sizes(conv, algorithm, target)


@given(convs(most=9))
def test_plans_of_anything_hold_no_sizes(conv: Conv) -> None:
    """Axes that no user could write too: what a strip keeps of a stride and inserted zeros."""
    for algorithm in ALGORITHMS:
        hold_no_sizes(replace(conv, dtype="float32"), algorithm, TARGETS["avx512"])


@every_target
@every_algorithm
def test_cost(algorithm: Algorithm, target: Target) -> None:
    """A positive number that hangs on nothing but the plan and the layer: not on the batch, nor on
    the cache, nor on what was computed before. More pixels cost more.
    """
    for conv, layouts in product(SOME, LAYOUTS):
        if algorithm.why_not(conv, target) is not None:
            continue
        larger = conv.with_size(*(2 * axis.size + 8 for axis in conv.axes))
        takes_larger = algorithm.why_not(larger, target) is None
        for plan in algorithm.plans(conv, target, *layouts):
            cost = algorithm.cost(conv, plan, target)
            assert isfinite(cost)
            assert cost > 0
            for n, l2 in ((0, 1), (9, 2**40)):  # both at once: neither may count
                other = algorithm.cost(conv.with_batch(n), plan, replace(target, l2=l2))
                assert other == cost, str(conv)
            if takes_larger:
                assert algorithm.cost(larger, plan, target) > cost, str(conv)


@every_algorithm
def test_emits(algorithm: Algorithm) -> None:
    """The first and the last plan of a problem become machine code that exports run and pack."""
    target = llvm.detect()
    conv = next(conv for conv in PROBLEMS if algorithm.why_not(conv, target) is None)
    plans = next(found for pair in LAYOUTS if (found := algorithm.plans(conv, target, *pair)))
    for plan in plans[:: max(1, len(TARGETS) - 1)]:
        loaded = llvm.load(llvm.object_bytes(algorithm.emit(plan, target)), target)
        assert loaded.address("run")
        assert loaded.address("pack")
        with pytest.raises(LookupError):
            loaded.address("no such function")


def test_order() -> None:
    """Most special first; the one that takes all is the last."""
    assert ALGORITHMS[-1] is direct
    order = [ALGORITHMS.index(a) for a in (depthwise, subpixel, interleave, planar, direct)]
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


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("conv2d 1x3x90x90 o8 k3 s5", "takes strides up to 4; here outputs are 5 pixels apart"),
        ("conv2d 1x3x90x90 o8 k3 s1x9", "takes strides up to 4; here outputs are 9 pixels apart"),
        ("conv2d 1x3x90x90 o8 k3 s4", None),
        ("conv2d 1x8x9x9 o8 k3 d9 p9 g8", None),
        ("tconv2d 1x8x9x9 o8 k16 s8", None),
    ],
)
def test_why_planar_does_not(line: str, says: str | None) -> None:
    assert planar.why_not(Conv.parse(line), llvm.detect()) == says


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
