"""Which way a call takes: gradients of what is beyond PyTorch's arguments, autocast, torch.func,
torch.compile, torch.export, fake tensors, subclasses.
"""

from __future__ import annotations

import re
import subprocess
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everyone writes it
from torch.autograd import gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx

import konv
import konv.nn
from konv import arrays
from konv.geometry import Conv
from konv.nn import aten, gradients
from konv.nn.terms import Terms
from konv.pair import pair

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def tensor(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def wide(*shape: int, seed: int = 0) -> torch.Tensor:
    return tensor(*shape, seed=seed, dtype=torch.float64).requires_grad_()


LINES = [
    "conv2d 2x4x7x6 o6 k3 s2 p1 g2",
    "conv2d 1x3x9x9 o4 k3x2 s3x2 p2:1 d2x1",
    "conv1d 2x3x9 o4 k3 s2",
    "tconv2d 2x4x5x4 o6 k3 s2 p1 g2 r1",
    "tconv1d 1x3x5 o4 k4 s3 p1:0 d2",
    "conv3d 1x2x4x5x4 o2 k2 s2 p1",
]


@pytest.mark.parametrize("line", LINES)
def test_terms_are_those_of_an_axis(line: str) -> None:
    """What tracing knows of geometry is what `Axis` knows; PyTorch's operators are the same."""
    conv = Conv.parse(line)
    terms, taps = Terms.of(conv), [a.kernel for a in conv.axes]
    found = terms.adjoint(conv.in_shape[2:], taps, conv.out_shape[2:])
    assert found == Terms.of(conv.adjoint())
    assert terms.overhang() == [(max(0, a.lo // a.up), max(0, a.hi // a.up)) for a in conv.axes]
    x, w = tensor(*conv.in_shape), tensor(*conv.weight_shape, seed=1)
    dy = tensor(*conv.out_shape, seed=2)
    y = gradients.convolution(x, w, None, pair(conv))
    torch.testing.assert_close(aten.convolution(x, w, None, terms), y, rtol=1e-4, atol=1e-4)
    dx = gradients.convolution(dy, w, None, pair(conv).adjoint)
    assert dx.shape == x.shape
    torch.testing.assert_close((dx * x).sum(), (dy * y).sum(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        aten.convolution(dy, w, None, Terms.of(conv.adjoint())), dx, rtol=1e-4, atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    ("transposed", "options"),
    [
        (False, {"padding": "same", "stride": 2}),
        (False, {"padding": "causal", "dilation": 2}),
        (False, {"padding": ((0, 2), (1, 0)), "stride": (1, 2)}),
        (False, {"padding": 1, "layout": "NHWC", "activation": "silu"}),
        (True, {"padding": ((0, 1), (2, 0)), "stride": 2}),
        (True, {"padding": 0, "stride": 2, "output_padding": 1}),
    ],
    ids=["same", "causal", "pairs", "layout", "transposed pairs", "transposed"],
)
def test_gradients_beyond_pytorchs_arguments(mode: str, transposed: bool, options: Any) -> None:
    """Of konv.conv2d and kin, in every padding mode; twice."""
    shape = (1, 6, 7, 4) if "layout" in options else (1, 4, 6, 7)
    x, w, b = wide(*shape), wide(4, 4, 3, 3, seed=1), wide(4, seed=2)
    call = konv.conv_transpose2d if transposed else konv.conv2d

    def function(x: Any, w: Any, b: Any) -> Any:
        return call(x, w, b, padding_mode=mode, **options)

    with torch.no_grad():
        expected = function(x, w, b)
    torch.testing.assert_close(function(x, w, b).detach(), expected)
    assert gradcheck(function, (x, w, b), fast_mode=True, check_forward_ad=True)
    assert gradgradcheck(function, (x, w, b), fast_mode=True)


ACTIVATIONS = ["relu", "relu6", ("leaky_relu", 0.3), "silu", "hardswish", "gelu", ("gelu", "tanh")]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("batched", [True, False])
def test_activation_and_residual(activation: Any, batched: bool) -> None:
    """With gradients as without."""
    x, w, b = wide(2, 3, 6, 5), wide(4, 3, 3, 3, seed=1), wide(4, seed=2)
    residual = wide(2, 4, 6, 5, seed=3)
    if not batched:
        x, residual = (a.detach()[0].requires_grad_() for a in (x, residual))
    with torch.no_grad():
        expected = konv.conv2d(x, w, b, padding=1, activation=activation, residual=residual)
    got = konv.conv2d(x, w, b, padding=1, activation=activation, residual=residual)
    torch.testing.assert_close(got.detach(), expected, rtol=1e-9, atol=1e-9)
    assert all(a is not None for a in torch.autograd.grad(got.sum(), (x, w, b, residual)))
    plain = konv.conv2d(x, w, b, padding=1, plan="direct")
    torch.testing.assert_close(plain, konv.conv2d(x, w, b, padding=1))


DOORS = [
    *product(["numbers", "gradient", "autocast"], [None, "NHWC"], [True, False]),
    ("compiled", "NHWC", False),
]


@pytest.mark.parametrize(("door", "layout", "batched"), DOORS)
def test_a_residual_unlike_the_result_is_refused(
    door: str, layout: str | None, batched: bool
) -> None:
    """Whichever way the call takes, with the same words."""
    torch._dynamo.reset()
    x, w = tensor(2, 5, 6, 3) if layout else tensor(2, 3, 5, 6), tensor(4, 3, 3, 3, seed=1)
    shape = (2, 5, 6, 4) if layout else (2, 4, 5, 6)
    x, shape = (x, shape) if batched else (x[0], shape[1:])
    w.requires_grad_(door != "numbers")
    name = "bfloat16" if door == "autocast" else "float32"
    rule = re.escape(f"the result of conv2d, to which it is added, is {name} {shape}")

    def call(residual: Any) -> Any:
        return konv.conv2d(x, w, padding=1, layout=layout, residual=residual)

    made: Any = call
    if door == "compiled":
        made = torch.compile(call, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=door == "autocast"):
        assert door == "compiled" or made(tensor(*shape)).shape == shape
        odd = tensor(*shape).double(), tensor(3, *shape), tensor(shape[-1])
        for residual in odd[: 1 if door == "compiled" else 3]:
            with pytest.raises(Exception if door == "compiled" else konv.ProblemError, match=rule):
                made(residual)
        if door != "compiled":
            with pytest.raises(TypeError, match=r"residual is a ndarray, x a torch\.Tensor"):
                made(tensor(*shape).numpy())
            with pytest.raises(konv.UnsupportedError, match=r"residual is a .* on meta"):
                made(tensor(*shape).to("meta"))


def test_only_the_gradients_that_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen weight costs no weight gradient, a first layer no gradient of its image."""
    done: list[str] = []
    real, of_weight = gradients.run, gradients.of_numbers
    monkeypatch.setattr(gradients, "run", lambda *a, **k: (done.append("x"), real(*a, **k))[1])
    monkeypatch.setattr(
        gradients, "of_numbers", lambda *a: (done.append("weight"), of_weight(*a))[1]
    )
    x, w = tensor(1, 3, 6, 6), tensor(4, 3, 3, 3, seed=1)
    for needs, expected in (((True, False), ["x"]), ((False, True), ["weight"])):
        done.clear()
        a, b = (t.detach().requires_grad_(need) for t, need in zip((x, w), needs, strict=True))
        konv.conv2d(a, b).sum().backward()
        assert done == expected
        assert [a.grad is not None, b.grad is not None] == list(needs)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_transforms(backend: str) -> None:
    """torch.func's grad, jacrev and per-sample gradients, compiled: as PyTorch's own."""
    xs, w = tensor(2, 1, 2, 5, 5), tensor(3, 2, 3, 3, seed=1)

    def loss(w: Any, x: Any, conv2d: Any = konv.conv2d) -> Any:
        return conv2d(x, w, padding=1).square().sum((0, 2, 3))

    def theirs(w: Any, x: Any) -> Any:
        return loss(w, x, F.conv2d)

    for ours, transform in product(
        (loss, lambda w, x: loss(w, x, konv.nn.functional.conv2d)),
        (
            lambda f: torch.func.grad(lambda w: f(w, xs[0]).sum()),
            lambda f: torch.func.jacrev(lambda w: f(w, xs[0])),
            lambda f: (
                lambda w: torch.func.vmap(torch.func.grad(lambda w, x: f(w, x).sum()), (None, 0))(
                    w, xs
                )
            ),
        ),
    ):
        torch._dynamo.reset()
        compiled = torch.compile(transform(ours), backend=backend, fullgraph=True)
        torch.testing.assert_close(compiled(w), transform(theirs)(w), rtol=1e-4, atol=1e-4)


def test_compiled_vmap_is_konv_s() -> None:
    """Only where a gradient is wanted inside does PyTorch's own operator stand in."""
    seen: list[str] = []
    w = tensor(3, 2, 3, 3)

    def backend(graph: Any, _: Any) -> Any:
        seen.append(str(graph.code))
        return graph

    for transform, expected in ((torch.func.vmap, True), (torch.func.grad, False)):
        torch._dynamo.reset()
        x = tensor(*(1,) * (transform is torch.func.vmap), 1, 2, 5, 5)
        one = transform(lambda x: konv.conv2d(x, w).square().sum())
        torch.compile(one, backend=backend, fullgraph=True)(x)
        assert ("konv.convolution" in seen.pop()) is expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype: torch.dtype) -> None:
    """As PyTorch's own: the lower precision inside, float32 gradients of float32 weights."""
    layer, theirs = konv.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(3, 4, 3, padding=1)
    theirs.load_state_dict(layer.state_dict())
    x = tensor(2, 3, 8, 8)
    with torch.autocast("cpu", dtype):
        y, expected = layer(x), theirs(x)
        assert layer(x.double().float()).dtype == dtype
        with torch.no_grad():
            assert konv.conv2d(x, layer.weight.detach()).dtype == dtype
    assert y.dtype == expected.dtype == dtype
    torch.testing.assert_close(y, expected, rtol=2e-2, atol=2e-2)
    y.float().square().sum().backward()
    expected.float().square().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(layer.weight.grad, theirs.weight.grad, rtol=5e-2, atol=1.0)
    doubled = konv.nn.Conv2d(3, 4, 3).double()
    with torch.autocast("cpu", dtype):
        assert doubled(x.double()).dtype == torch.float64


MAPS = [(0, None, None), (None, 0, None), (None, None, 0), (1, 0, None), (0, 2, 0), (0, 0, 0)]


@pytest.mark.parametrize("where", MAPS, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_vmap(where: Any, transposed: bool, compiled: bool) -> None:
    """Each mapped axis, and the gradient of each; compiled, without."""
    shapes = (2, 4, 6, 5), (4, 2, 3, 3) if transposed else (6, 2, 3, 3), (4 if transposed else 6,)
    arguments = []
    for seed, (shape, at) in enumerate(zip(shapes, where, strict=True)):
        full = list(shape) if at is None else [*shape[:at], 3, *shape[at:]]
        arguments.append(tensor(*full, seed=seed, dtype=torch.float64))

    def results(module: Any) -> Any:
        call = module.conv_transpose2d if transposed else module.conv2d

        def loss(x: Any, w: Any, b: Any) -> Any:
            return call(x, w, b, stride=2, padding=1, groups=2).square().sum()

        if not compiled:
            return torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2)), where)(*arguments)
        each: Any = torch.func.vmap(loss, where)
        if module is konv:
            torch._dynamo.reset()
            each = torch.compile(each, backend="aot_eager", fullgraph=True)
        return (each(*arguments),)

    for a, b in zip(results(konv), results(F), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_torch_func() -> None:
    """jvp, jacrev over jacfwd, and a Hessian, as PyTorch's own operator."""
    x, w = tensor(1, 2, 4, 4, dtype=torch.float64), tensor(2, 2, 3, 3, dtype=torch.float64, seed=1)
    t = tensor(1, 2, 4, 4, dtype=torch.float64, seed=2)
    for transform in (
        lambda f: torch.func.jvp(lambda x: f(x, w), (x,), (t,))[1],
        lambda f: torch.func.jacrev(torch.func.jacfwd(f, argnums=1), argnums=0)(x, w),
        lambda f: torch.func.hessian(lambda w: f(x, w).pow(3).sum())(w),
    ):
        torch.testing.assert_close(transform(konv.nn.conv2d), transform(F.conv2d))


# --- Compiled -------------------------------------------------------------------------------------

BEYOND = [
    konv.nn.Conv2d(3, 4, 3, stride=2, padding="same", padding_mode="reflect"),
    konv.nn.Conv2d(3, 4, 3, padding="causal"),
    konv.nn.ConvTranspose2d(3, 4, 3, stride=2, padding=((0, 1), (2, 0)), padding_mode="circular"),
    konv.nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1),
    konv.nn.Conv2d(3, 6, 3, padding=1, groups=3),
]


COMPILED = [
    pytest.param(layer, marks=[pytest.mark.slow] * (layer.padding_mode != "zeros"), id=repr(layer))
    for layer in BEYOND
]


@pytest.mark.parametrize("layer", COMPILED)
@pytest.mark.parametrize("last", [False, True])
def test_compiled_is_eager(layer: Any, last: bool) -> None:
    """One graph, the same bits, strides and gradients; with symbolic sizes too."""
    for dynamic, sizes in ((False, [8]), (True, [8, 9])):
        torch._dynamo.reset()  # or the one would run what was compiled for the other
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=dynamic)
        for size in sizes:
            x = tensor(2, 3, size, size + 1)
            x = x.to(memory_format=torch.channels_last) if last else x
            expected, got = layer(x), compiled(x)
            assert torch.equal(got, expected)
            assert got.stride() == expected.stride()
            grads = [
                torch.autograd.grad(y.square().sum(), layer.parameters()) for y in (got, expected)
            ]
            for a, b in zip(*grads, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        if not dynamic:
            with torch.no_grad():
                assert compiled(x).stride() == layer(x).stride() == got.stride()


@pytest.mark.slow
def test_inductor() -> None:
    torch._dynamo.reset()
    layer, x = konv.nn.Conv2d(3, 8, 3, padding=1), tensor(2, 3, 8, 8)
    model = torch.nn.Sequential(layer, torch.nn.ReLU())
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
    compiled(x).square().sum().backward()
    assert layer.weight.grad is not None


def test_konv_functions_compile_and_the_operator_is_sound() -> None:
    """konv.conv2d itself within a graph; PyTorch's own checks of a custom operator."""
    torch._dynamo.reset()
    x, w = tensor(2, 3, 8, 8), tensor(4, 3, 3, 3, seed=1).requires_grad_()
    residual = tensor(2, 4, 8, 8, seed=2)

    def function(x: Any) -> Any:
        return konv.conv2d(x, w, padding=1, activation="relu", residual=residual)

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), function(x))
    terms = Terms(False, [2, 1], [1, 1], [1, 0], [0, 2], [1, 2], 1)
    y = torch.ops.konv.convolution(x, w, None, *terms).detach()
    checks = "test_schema", "test_autograd_registration", "test_faketensor"
    torch.library.opcheck(torch.ops.konv.convolution, (x, w, None, *terms), test_utils=checks)
    torch.library.opcheck(
        torch.ops.konv.convolution_weight, (x, y, [3, 3], *terms), test_utils=checks
    )


@pytest.mark.parametrize("layer", BEYOND, ids=repr)
def test_exported_without_konv(layer: Any, tmp_path: Path) -> None:
    """A saved export holds PyTorch's operators only, and runs where konv cannot be imported."""
    x = tensor(2, 3, 8, 8)
    exported = torch.export.export(layer, (x,))
    assert "konv" not in str(exported.graph)
    torch.export.save(exported, tmp_path / "model.pt2")
    torch.save((x, layer(x).detach()), tmp_path / "tensors.pt")
    if layer is not BEYOND[0]:
        torch.testing.assert_close(exported.module()(x), layer(x), rtol=1e-4, atol=1e-4)
        return
    code = f"""
import sys, torch
sys.modules["konv"] = None
x, y = torch.load({str(tmp_path / "tensors.pt")!r})
got = torch.export.load({str(tmp_path / "model.pt2")!r}).module()(x)
torch.testing.assert_close(got, y, rtol=1e-4, atol=1e-4)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_onnx(tmp_path: Path) -> None:
    import onnx

    layer, x = konv.nn.Conv2d(3, 4, 3, padding=1), tensor(1, 3, 8, 8)
    torch.onnx.export(layer, (x,), str(tmp_path / "m.onnx"), dynamo=False)
    assert [n.op_type for n in onnx.load(str(tmp_path / "m.onnx")).graph.node] == ["Conv"]


# --- Other tensors --------------------------------------------------------------------------------


class Labelled(torch.Tensor):
    """A subclass, which PyTorch's operators keep."""


def test_other_tensors() -> None:
    """Fake, meta, labelled: as PyTorch's own layer, without an error and without numbers."""
    from torch._subclasses import FakeTensorMode

    layer, x = konv.nn.Conv2d(3, 4, 3, padding=1), tensor(1, 3, 8, 8)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = layer(mode.from_tensor(x.to(memory_format=torch.channels_last)))
        assert fake.shape == (1, 4, 8, 8)
        assert fake.stride() == (256, 1, 32, 4)
    assert konv.nn.Conv2d(3, 4, 3, device="meta")(x.to("meta")).shape == (1, 4, 6, 6)
    assert type(layer(x.as_subclass(Labelled))) is Labelled
    graph = make_fx(layer)(x).graph
    assert "konv.convolution" in str(graph)
    photograph = (x[..., :3] * 20).to(torch.uint8)
    for odd in (x.to(torch.complex64), x.long(), photograph, photograph[0]):
        weight = layer.weight.detach().to(odd.dtype)
        torch.testing.assert_close(konv.nn.conv2d(odd, weight), F.conv2d(odd, weight))


@pytest.mark.parametrize("calls", [0, 1, 8])
def test_modes_of_pytorch_see_layers_that_were_met_before(calls: int) -> None:
    """make_fx of real tensors, and real tensors under a FakeTensorMode."""
    from torch._subclasses import FakeTensorMode

    x, w, b = tensor(1, 3, 8, 8), tensor(4, 3, 3, 3, seed=1), tensor(4, seed=2)
    for _ in range(calls):
        konv.conv2d(x, w, b)
    graph, other = make_fx(lambda x: konv.conv2d(x, w, b) * 2)(x), tensor(1, 3, 8, 8, seed=3)
    assert "konv.convolution" in str(graph.graph)
    torch.testing.assert_close(graph(other), F.conv2d(other, w, b) * 2, rtol=1e-4, atol=1e-4)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert type(konv.conv2d(x, w, b)) is type(mode.from_tensor(x))
    layer = konv.prepare(Conv.of((1, 3, 8, 8), 4, 3), w, b)
    assert torch.equal(layer(x), konv.conv2d(x, w, b))


def test_torch_compile_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before konv has met a tensor."""
    monkeypatch.setattr(arrays, "_torch", None)
    monkeypatch.setattr(arrays, "_exact", {})
    x, w = tensor(1, 3, 8, 8), tensor(4, 3, 3, 3, seed=1)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: konv.conv2d(x, w) + 1, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), F.conv2d(x, w) + 1, rtol=1e-4, atol=1e-4)


def test_modes_of_pytorch_see_gradients_of_what_was_computed_before() -> None:
    """Of convolutions and of batch normalisation."""
    x, w = wide(1, 3, 8, 8), wide(4, 3, 3, 3, seed=1)
    image, norm = tensor(8, 64, 32, 32).requires_grad_(), konv.nn.BatchNorm2d(64)
    for y, of in ((konv.nn.conv2d(x, w), (x, w)), (norm(image), (image, norm.weight))):
        dy, graph = torch.randn_like(y), make_fx(partial(_back, y, of))(torch.ones_like(y))
        for mine, expected in zip(graph(dy), _back(y, of, dy), strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-3)


def _back(y: torch.Tensor, of: Any, dy: torch.Tensor) -> Any:
    return torch.autograd.grad(y, of, dy, retain_graph=True)


@pytest.mark.parametrize("which", ["input", "weight", "bias"])
def test_what_is_no_tensor_is_a_type_error(which: str) -> None:
    """As PyTorch's own says; a layer too."""
    arguments: dict[str, Any] = {
        "input": tensor(1, 3, 6, 6), "weight": tensor(4, 3, 3, 3), "bias": tensor(4),
    }  # fmt: skip
    arguments[which] = arguments[which].numpy()
    x = tensor(1, 3, 6, 6)
    for first in (arguments["input"], x.as_subclass(Labelled), x.long()):
        if which != "input" or first is arguments["input"]:
            for function in (konv.nn.conv2d, F.conv2d):
                with pytest.raises(TypeError, match=which):
                    function(**arguments | {"input": first})
    if which == "input":
        with pytest.raises(TypeError, match=r"input is a ndarray; konv\.nn convolves"):
            konv.nn.Conv2d(3, 4, 3)(arguments["input"])
