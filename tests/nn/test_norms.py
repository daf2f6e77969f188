"""Batch normalisation beside PyTorch's: results, gradients, statistics, activations behind it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

import konv
import konv.nn
from konv.nn import norm
from konv.nn.sequence import activation_behind

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
LAYERS = {2: "BatchNorm1d", 3: "BatchNorm1d", 4: "BatchNorm2d", 5: "BatchNorm3d"}
# Channels: whole lines and none; pixels: whole vectors, tails, one; images of one pixel in rows.
SHAPES = [
    (3, 24, 9, 7), (2, 35, 40, 41), (70, 16, 1, 1), (1, 3, 5, 4), (9, 8, 7, 7), (200, 35),
    (2, 8, 67), (2, 5, 3, 11, 13), (2, 48, 30, 31),
]  # fmt: skip
CASES = [(shape, last) for shape in SHAPES for last in (False, True) if not last or len(shape) > 3]
FOLLOWED = (None, nn.ReLU(), nn.ReLU6(inplace=True))


@pytest.fixture(autouse=True)
def however_small() -> Iterator[None]:
    """konv computes tensors of any size, and PyTorch none of those that a test counts."""
    with patch.object(norm, "WORTH", 1):
        yield


def numbers(shape: tuple[int, ...], dtype: torch.dtype, last: bool, seed: int = 0) -> Tensor:
    x = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return x.to(memory_format=LAST[len(shape)]) if last else x


def layers(shape: Any, after: Any = None, **options: Any) -> tuple[nn.Sequential, nn.Sequential]:
    """A layer of PyTorch and its like of konv."""
    theirs = nn.Sequential(getattr(nn, LAYERS[len(shape)])(shape[1], **options))
    if after is not None:
        theirs.append(after)
    generator = torch.Generator().manual_seed(1)
    for parameter in theirs.parameters():
        nn.init.uniform_(parameter, -0.5, 1.5, generator=generator)
    return theirs, konv.accelerate(copy.deepcopy(theirs))  # type: ignore[return-value]


def computed() -> int:
    """How many kinds of tensors konv has computed."""
    return sum(call is not None for call in norm._calls.values())


def steps(a: Tensor) -> list[int]:
    """Strides of the axes that have any."""
    return [step for step, size in zip(a.stride(), a.shape, strict=True) if size > 1]


def error(got: Tensor, right: Tensor) -> float:
    off = (got.double() - right).detach().abs().max()
    return float(off / right.detach().abs().max().clamp(min=1e-30))


@pytest.mark.parametrize("after", FOLLOWED, ids=str)
@pytest.mark.parametrize(("shape", "last"), CASES, ids=str)
def test_results_gradients_and_statistics(shape: Any, last: bool, after: Any) -> None:
    """In both precisions; float32 is as near to float64 as PyTorch is."""
    norm._calls.clear()
    x, dy = numbers(shape, torch.float64, last), numbers(shape, torch.float64, last, 1)
    exact = layers(shape, after)[0].double()
    right = everything(exact, x, dy)
    for dtype, off in ((torch.float64, 1e-13), (torch.float32, 2e-6)):
        theirs, ours = (each.to(dtype) for each in layers(shape, after))
        got = everything(ours, x.to(dtype), dy.to(dtype))
        beside = everything(theirs, x.to(dtype), dy.to(dtype))
        assert got.keys() == right.keys()
        for name, value in got.items():
            bound = max(off, 2 * error(beside[name], right[name]))
            assert error(value, right[name]) <= bound, name
            assert steps(value) == steps(beside[name]), name
    assert computed() == 2


def everything(m: nn.Sequential, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    x = x.detach().requires_grad_()
    y = m(x)
    y.backward(dy)
    found = {"y": y, "dx": x.grad} | {name: p.grad for name, p in m.named_parameters()}
    return {**found, **dict(m.named_buffers())}  # type: ignore[dict-item]


@pytest.mark.parametrize("last", [False, True])
def test_a_large_mean_costs_no_digits(last: bool) -> None:
    """Where the mean is ten thousand deviations, and the first number a million."""
    shape = (4, 20, 17, 18)
    x = numbers(shape, torch.float32, last) + 1e4
    x[0, :, 0, 0] = 1e6
    theirs, ours = layers(shape)
    exact = copy.deepcopy(theirs).double()
    exact(x.double()), theirs(x), ours(x)
    for name, right in exact.named_buffers():
        off = error(ours.get_buffer(name), right.double())
        assert off <= max(1e-6, 2 * error(theirs.get_buffer(name), right.double())), name


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": None}, {"momentum": 1.0}, {"affine": False}, {"track_running_stats": False},
        {"eps": 0.5},
    ],
    ids=str,
)  # fmt: skip
def test_options(options: dict[str, Any]) -> None:
    shape = (3, 12, 9, 7)
    norm._calls.clear()
    theirs, ours = layers(shape, **options)
    for seed in range(3):
        x, dy = numbers(shape, torch.float64, True, seed), numbers(shape, torch.float64, True, 9)
        right = everything(theirs.double(), x, dy)
        got = everything(ours.double(), x, dy)
        assert all(error(got[name], right[name].double()) < 1e-13 for name in right)
    assert computed() == 1
    assert torch.allclose(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("after", FOLLOWED, ids=str)
@pytest.mark.parametrize("last", [False, True])
def test_gradients_of_two_orders(last: bool, after: Any) -> None:
    shape = (3, 8, 3, 4)
    _, ours = layers(shape, after)
    ours.double()

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        named = {"0.weight": weight, "0.bias": bias}
        y: Tensor = torch.func.functional_call(ours, named, (x,))
        return y

    x = numbers(shape, torch.float64, last).requires_grad_()
    inputs = (x, *ours.parameters())
    norm._calls.clear()
    assert gradcheck(function, inputs, check_batched_grad=True)
    assert gradgradcheck(function, inputs)
    assert computed() == 1


def test_what_gradients_are_wanted() -> None:
    shape = (3, 8, 9, 7)
    for wanted in ((True, False, False), (False, True, False), (False, False, True)):
        found = []
        for m in layers(shape, nn.ReLU()):
            tensors = [numbers(shape, torch.float32, True), *m.parameters()]
            for tensor, wants in zip(tensors, wanted, strict=True):
                tensor.requires_grad_(wants)
            m(tensors[0]).square().sum().backward()
            found.append([t.grad for t in tensors])
        for a, b, wants in zip(*found, wanted, strict=True):
            assert (a is None) is (b is None) is not wants
            assert a is None or torch.allclose(a, b, atol=1e-4)


def test_gradients_that_lie_otherwise() -> None:
    """Those of a sum are one number, expanded; others come contiguous."""
    shape = (3, 8, 9, 7)
    for dy in (torch.ones(()).expand(shape), numbers(shape, torch.float32, False)):
        found = []
        for m in layers(shape):
            x = numbers(shape, torch.float32, True).requires_grad_()
            found.append(torch.autograd.grad(m(x), x, dy)[0])
        assert torch.allclose(*found, atol=1e-5)


def test_evaluation_and_no_gradients() -> None:
    shape = (3, 8, 9, 7)
    theirs, ours = layers(shape, nn.ReLU())
    x = numbers(shape, torch.float32, True)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-6)
    assert torch.allclose(ours[0].running_var, theirs[0].running_var)
    assert torch.equal(copy.deepcopy(theirs).eval()(x), konv.accelerate(theirs).eval()(x))


@pytest.mark.parametrize("last", [False, True])
def test_threads_change_no_bit(last: bool) -> None:
    shape = (5, 33, 60, 61)
    x, dy = numbers(shape, torch.float32, last), numbers(shape, torch.float32, last, 1)
    found = []
    try:
        for threads in (1, 2, 3):
            konv.set_num_threads(threads)
            found.append(everything(layers(shape, nn.ReLU())[1], x, dy))
    finally:
        konv.set_num_threads(torch.get_num_threads())
    for other in found[1:]:
        assert all(torch.equal(value, other[name]) for name, value in found[0].items())


def test_what_is_left_to_pytorch() -> None:
    """Other dtypes and layouts, gaps, transforms, forward mode, traces: PyTorch's very numbers."""
    shape = (3, 8, 9, 7)
    theirs, ours = layers(shape, nn.ReLU())
    x = numbers(shape, torch.float32, False)
    norm._calls.clear()
    gaps = numbers((3, 16, 9, 7), x.dtype, True)[:, ::2]
    for given in (x.bfloat16(), x[..., ::2], x.transpose(2, 3), gaps):
        assert torch.equal(ours(given), theirs(given))
    without = layers(shape, nn.ReLU(), track_running_stats=False)
    assert torch.equal(*(torch.func.jvp(m, (x,), (x,))[1] for m in without))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        tangents = [torch.autograd.forward_ad.unpack_dual(m(dual)).tangent for m in (ours, theirs)]
    assert torch.equal(*tangents)
    assert computed() == 0


def test_errors_are_pytorchs() -> None:
    theirs, ours = layers((3, 8, 9, 7), nn.ReLU())
    for wrong in (torch.ones(3, 8), torch.ones(3, 5, 9, 7), torch.ones(1, 8, 1, 1)):
        said = []
        for m in (theirs, ours):
            with pytest.raises((ValueError, RuntimeError)) as error:
                m(wrong)
            said.append(str(error.value))
        assert said[0] == said[1]


@pytest.mark.filterwarnings("ignore")
def test_compiled_and_exported() -> None:
    torch._dynamo.reset()
    shape = (3, 8, 9, 7)
    theirs, ours = layers(shape, nn.ReLU())
    x = numbers(shape, torch.float32, True)
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), theirs(x), atol=1e-5)
    program = torch.export.export(ours.eval(), (x,))
    assert torch.allclose(program.module()(x), theirs.eval()(x), atol=1e-5)


def test_hooks_see_what_they_would_see() -> None:
    """On either of the two, or on all modules."""
    shape = (3, 8, 9, 7)
    x = numbers(shape, torch.float32, True)
    for place in (0, 1, None):
        found = []
        for m in layers(shape, nn.ReLU(inplace=True)):
            seen: list[Tensor] = []

            def hook(_: Any, given: Any, made: Any, seen: Any = seen) -> None:
                seen.extend([given[0].clone(), made.clone()])

            where = (
                nn.modules.module.register_module_forward_hook
                if place is None
                else (m[place].register_forward_hook)
            )
            handle = where(hook)
            m(x)
            handle.remove()
            found.append(seen)
        assert len(found[0]) == len(found[1]) > 0
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*found, strict=True))


class Called(nn.Module):
    """A layer of batch normalisation and its activation, called by code and no Sequential."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.norm, self.relu = layers[0], layers[1]
        self.between: Any = lambda _: None

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        self.other = self.between(y)
        y = self.relu(y)
        return y if self.other is None else y + self.other.exp()


AFTER = (nn.ReLU(inplace=True), nn.ReLU6(inplace=True), nn.ReLU())


def called(shape: Any, after: nn.Module) -> tuple[Called, Called]:
    theirs = Called(layers(shape, after)[0])
    ours: Any = konv.accelerate(copy.deepcopy(theirs))
    return theirs, ours


def one_step(y: Tensor) -> bool:
    return "Rectified" in type(y.grad_fn).__name__


@pytest.mark.parametrize("after", AFTER, ids=str)
@pytest.mark.parametrize("last", [False, True])
def test_in_place_behind(last: bool, after: Any) -> None:
    """Gradients of both orders, numbers that lie in the same memory."""
    shape = (3, 24, 9, 7)
    theirs, ours = (m.double() for m in called(shape, after))
    x, dy = numbers(shape, torch.float64, last), numbers(shape, torch.float64, last, 1)
    right, got = everything(theirs, x, dy), everything(ours, x, dy)
    assert all(error(got[name], right[name].double()) < 1e-13 for name in right)
    x.requires_grad_()
    assert one_step(ours(x)) is after.inplace
    small = numbers((3, 4, 2, 3), torch.float64, last).requires_grad_()
    m = called(small.shape, after)[1].double()
    assert gradcheck(m, small)
    assert gradgradcheck(m, small)


BETWEEN: dict[str, Any] = {
    "another reader": lambda y: y * 2,
    "a view": lambda y: y[:, :2].mean(),
    "its gradient is kept": lambda y: y.retain_grad(),
    "a hook": lambda y: y.register_hook(lambda g: g * 3) and None,
    "written to": lambda y: None if y.add_(1) is y else y,
}


@pytest.mark.parametrize("name", BETWEEN)
def test_who_comes_between(name: str) -> None:
    shape = (3, 8, 9, 7)
    x, dy = numbers(shape, torch.float64, True), numbers(shape, torch.float64, True, 1)
    found = []
    for m in called(shape, nn.ReLU(inplace=True)):
        m.double().between = BETWEEN[name]
        found.append(everything(m, x, dy))
    assert all(error(found[1][key], found[0][key].double()) < 1e-13 for key in found[0])


def test_what_is_written_to_between_is_an_error() -> None:
    shape = (3, 8, 9, 7)
    for m in called(shape, nn.ReLU(inplace=True)):
        x = numbers(shape, torch.float32, True).requires_grad_() * 1

        def write(_: Tensor, x: Tensor = x) -> None:
            x.detach().mul_(2)

        m.between = write
        y = m(x)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_hooks_on_saved_tensors_see_each_once() -> None:
    """They may keep it on disk, or compute it again."""
    shape = (3, 8, 9, 7)
    m = called(shape, nn.ReLU(inplace=True))[1]
    x = numbers(shape, torch.float32, True).requires_grad_()
    packed: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        y = m(x)
    assert not one_step(y)
    assert sum(t.shape == x.shape for t in packed) == 2
    checkpointed = torch.utils.checkpoint.checkpoint(m, x, use_reentrant=False)
    grads = [torch.autograd.grad(each.sum(), x)[0] for each in (y, checkpointed)]
    assert torch.allclose(*grads, atol=1e-5)


def test_which_activations_are_taken_along() -> None:
    batch_norm = nn.BatchNorm2d(3)
    norms = (nn.BatchNorm2d,)
    other, replaced = nn.ReLU6(), nn.ReLU()
    other.max_val = 5.0
    replaced.forward = replaced.forward  # type: ignore[method-assign]

    class Own(nn.ReLU):
        pass

    for after in (other, replaced, Own(), nn.LeakyReLU(), nn.Identity(), None):
        assert activation_behind(batch_norm, after, norms) == ""
    assert activation_behind(batch_norm, nn.ReLU(), norms) == "relu"
    assert activation_behind(nn.Identity(), nn.ReLU(), norms) == ""
    batch_norm.register_forward_hook(lambda *_: None)
    assert activation_behind(batch_norm, nn.ReLU(), norms) == ""


def test_there_and_back() -> None:
    m = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Sequential(nn.BatchNorm2d(8), nn.Tanh()),
    )
    kinds = [type(part) for part in m.modules()]
    before = {id(part): set(part.__dict__) for part in m.modules()}
    konv.accelerate(m)
    assert [type(part) for part in m.modules()] == [
        konv.nn.Sequential, konv.nn.Conv2d, konv.nn.BatchNorm2d, nn.ReLU, nn.Sequential,
        konv.nn.BatchNorm2d, nn.Tanh,
    ]  # fmt: skip
    x = numbers((2, 3, 9, 9), torch.float32, False)
    for copied in (copy.deepcopy(m), pickle.loads(pickle.dumps(m))):
        assert [type(part) for part in copied.modules()] == [type(part) for part in m.modules()]
        assert torch.equal(copied(x), copy.deepcopy(m)(x))
    assert torch.equal(m[:2](x), m[1](m[0](x)))
    frozen = konv.accelerate(copy.deepcopy(m).eval(), freeze=True)
    assert torch.allclose(frozen(x), copy.deepcopy(m).eval()(x), atol=1e-5)
    assert "batch norm, relu" in str(frozen.report)
    konv.restore(m)
    assert [type(part) for part in m.modules()] == kinds
    assert {id(part): set(part.__dict__) for part in m.modules()} == before


def test_small_images_are_left_to_pytorch() -> None:
    with patch.object(norm, "WORTH", 1 << 20):
        norm._calls.clear()
        theirs, ours = layers((3, 8, 9, 7), nn.ReLU())
        x = numbers((3, 8, 9, 7), torch.float32, False)
        assert torch.equal(ours(x), theirs(x))
        assert not norm._calls
