"""Freezing: the frozen network returns what the model returned, whatever was folded and fused."""

from __future__ import annotations

import copy
import operator
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everyone writes it
from networks import NETWORKS
from torch import Tensor, nn

from konv.errors import UnsupportedError
from konv.nn.freeze import Frozen, freeze

LAST = torch.channels_last
DIMS = (1, 2, 3)


def lively(model: Any) -> Any:
    """The model with batch-norm statistics and weights as after training."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return model.eval()


def near(got: Tensor, right: Tensor, share: float = 2e-5, strides: bool = True) -> None:
    __tracebackhide__ = True
    assert got.shape == right.shape
    assert got.dtype == right.dtype
    assert not strides or got.stride() == right.stride()
    assert not got.requires_grad
    assert (got - right).abs().max() <= share * right.abs().max()


def both(model: nn.Module, *args: Any, share: float = 2e-5, strides: bool = True) -> Frozen:
    """The frozen model, after its result was compared with the model's."""
    __tracebackhide__ = True
    model = lively(model)
    frozen = freeze(model)
    with torch.no_grad():
        near(frozen(*args), model(*args), share, strides)
    return frozen


def whats(frozen: Frozen) -> list[str]:
    return [row.what for row in frozen.report.rows]


class Called(nn.Module):
    """A convolution and what `function` makes of it: (model, x) -> y."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **more: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.other = nn.Conv2d(4, 4, 1)
        self.bn = nn.BatchNorm2d(4)
        for name, module in more.items():
            self.add_module(name, module)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def image(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


X = image(2, 4, 6, 7)


# --- The networks -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_return_the_same(name: str) -> None:
    network = NETWORKS[name]
    model, x = lively(network.small()), image(2, *network.small_shape)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    frozen = freeze(model)
    last = copy.deepcopy(model).to(memory_format=LAST)
    with torch.no_grad():
        near(frozen(x), model(x))
        near(freeze(last)(x), last(x))
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    unused = 2 if name.startswith("deeplab") else 0  # the head that is for training
    assert frozen.report.taken == len(convs) - unused
    assert not [m for m in frozen.modules() if isinstance(m, nn.BatchNorm2d | nn.ReLU | nn.ReLU6)]
    assert frozen.report.packed > 0
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.slow
def test_with_an_example_it_is_the_same_and_measured() -> None:
    network = NETWORKS["resnet50"]
    model, x = lively(network.small()), image(1, *network.small_shape)
    frozen = freeze(model, x)
    with torch.no_grad():
        near(frozen(x), model(x))
        near(frozen(image(3, 3, 33, 47)), model(image(3, 3, 33, 47)))
    assert all(row.before and row.after for row in frozen.report.rows)
    assert frozen.report.left_share is not None


# --- Batch normalisation ------------------------------------------------------------------------


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True], ids=["ordinary", "transposed"])
@pytest.mark.parametrize("affine", [False, True], ids=["plain", "affine"])
def test_batch_norm_is_folded_exactly(
    dims: int, groups: int, transposed: bool, affine: bool
) -> None:
    """In float64, where only rounding could differ."""
    conv = getattr(nn, f"Conv{'Transpose' * transposed}{dims}d")
    norm = getattr(nn, f"BatchNorm{dims}d")
    layer = conv(4, 8, 3, 2, 1, groups=groups, bias=affine)
    model = nn.Sequential(layer, norm(8, eps=0.3, affine=affine)).double()
    frozen = both(model, image(2, 4, *(5, 6, 7)[:dims], dtype=torch.float64), share=1e-13)
    assert whats(frozen) == ["with batch norm"]


def test_batch_statistics_are_not_folded() -> None:
    """Without running statistics batch norm looks at the batch even in evaluation."""
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    model = model.eval()
    frozen = freeze(model)
    with torch.no_grad():
        near(frozen(X), model(X))
    assert whats(frozen) == [""]


def test_a_result_that_others_use_is_kept() -> None:
    def function(m: Any, x: Tensor) -> Tensor:
        y = m.conv(x)
        return m.bn(y) * y

    assert whats(both(Called(function), X))[0] == ""


def test_a_convolution_called_twice() -> None:
    frozen = both(Called(lambda m, x: F.relu(m.bn(m.conv(x))) + m.conv(x)), X)
    assert whats(frozen)[:2] == ["with batch norm, relu", "with residual"]


# --- Activations --------------------------------------------------------------------------------

ACTIVATIONS: list[tuple[str, Any]] = [
    ("relu", nn.ReLU()),
    ("relu", nn.ReLU(inplace=True)),
    ("relu", F.relu),
    ("relu", torch.relu),
    ("relu", torch.relu_),
    ("relu", lambda y: y.relu()),
    ("relu", lambda y: y.relu_()),
    ("relu", lambda y: F.relu(y, True)),
    ("relu6", nn.ReLU6(inplace=True)),
    ("relu6", F.relu6),
    ("relu6", nn.Hardtanh(0, 6)),
    ("leaky_relu", nn.LeakyReLU(0.2, inplace=True)),
    ("leaky_relu", lambda y: F.leaky_relu(y, 0.3)),
    ("leaky_relu", F.leaky_relu),
    ("silu", nn.SiLU(inplace=True)),
    ("silu", F.silu),
    ("hardswish", nn.Hardswish()),
    ("hardswish", F.hardswish),
    ("gelu", nn.GELU()),
    ("gelu", nn.GELU(approximate="tanh")),
    ("gelu", lambda y: F.gelu(y, approximate="tanh")),
    ("", nn.Hardtanh()),
    ("", nn.Sigmoid()),
    ("", nn.PReLU()),
    ("", lambda y: F.leaky_relu(y, y.shape[0] / 10)),
]


@pytest.mark.parametrize(("name", "activation"), ACTIVATIONS)
def test_activations_are_fused(name: str, activation: Any) -> None:
    more = {"act": activation} if isinstance(activation, nn.Module) else {}
    model = Called(
        (lambda m, x: m.act(m.conv(x))) if more else lambda m, x: activation(m.conv(x)), **more
    )
    frozen = both(model, X)
    assert whats(frozen)[0] == (f"with {name}" if name else "")


# --- Sums ---------------------------------------------------------------------------------------


def iadd(a: Tensor, b: Tensor) -> Tensor:
    a += b
    return a


SUMS: dict[str, tuple[Any, str]] = {
    "add": (lambda m, x: m.conv(x) + x, "with residual"),
    "other way": (lambda m, x: x + m.conv(x), "with residual"),
    "iadd": (lambda m, x: iadd(m.conv(x), x), "with residual"),
    "torch.add": (lambda m, x: torch.add(m.conv(x), x), "with residual"),
    "method": (lambda m, x: m.conv(x).add_(x), "with residual"),
    "relu": (lambda m, x: torch.relu(m.bn(m.conv(x)) + x), "with batch norm, residual, relu"),
    "activated before": (lambda m, x: torch.relu(m.conv(x)) + x, "with relu"),
    "of itself": (lambda m, x: operator.add(*[m.conv(x)] * 2), ""),
    "alpha": (lambda m, x: torch.add(m.conv(x), x, alpha=2), ""),
    "number": (lambda m, x: m.conv(x) + 2, ""),
    "size": (lambda m, x: torch.relu(m.conv(x) + x.size(0)), "with residual, relu"),
    "broadcast": (lambda m, x: torch.relu(m.conv(x) + x[:1, :, :1]), "with residual, relu"),
    "larger": (lambda m, x: torch.relu(m.conv(x[:1]) + x), "with residual, relu"),
    "rank": (lambda m, x: torch.relu(m.conv(x) + x[None]), "with residual, relu"),
    "strided": (lambda m, x: m.conv(x) + x.flip(2).mT.contiguous().mT, "with residual"),
    "used again": (lambda m, x: (y := m.conv(x)) + x + y, ""),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_are_fused(name: str) -> None:
    function, what = SUMS[name]
    assert whats(both(Called(function), X, strides=name != "rank"))[0] == what


def test_the_later_of_two_convolutions_takes_the_sum() -> None:
    frozen = both(Called(lambda m, x: torch.relu(m.conv(x) + m.other(x))), X)
    assert whats(frozen) == ["", "with residual, relu"]


# --- Writing in place ---------------------------------------------------------------------------


def into_input(m: Any, x: Tensor) -> Tensor:
    z = x * 1
    y = m.conv(z)
    z.mul_(3)
    return torch.relu(y) + z


def into_residual(m: Any, x: Tensor) -> Tensor:
    z = x * 1
    z += m.conv(x)
    return z * z


def into_seen(m: Any, x: Tensor) -> Tensor:
    z = x * 1
    view = z[:, :2]
    z += m.conv(x)
    return torch.cat([z, view], 1)


def between(m: Any, x: Tensor) -> Tensor:
    z = x * 1
    y = m.conv(z)
    z[:, 0] = 5
    return m.bn(y) + z


def activation_of_input(m: Any, x: Tensor) -> Tensor:
    z = m.other(x)
    y = m.conv(z)
    return y + F.relu(z, inplace=True)


@pytest.mark.parametrize(
    "function", [into_input, into_residual, into_seen, between, activation_of_input]
)
def test_what_is_written_in_place_is_seen_as_before(function: Any) -> None:
    both(Called(function), X)


def test_an_argument_is_written_into_no_more_than_by_the_model() -> None:
    x = X.clone()
    freeze(lively(Called(lambda m, x: torch.relu(m.conv(x)) + x)))(x)
    assert torch.equal(x, X)


# --- Memory formats -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.conv(x).view(x.size(0), -1),
        lambda m, x: m.other(
            m.conv(x).view(x.size(0), 2, 2, 6, 7).transpose(1, 2).reshape(x.shape)
        ),
        lambda m, x: F.pixel_shuffle(m.conv(x), 2),
        lambda m, x: m.conv(x).flatten(1),
        lambda m, x: m.conv(x).permute(0, 2, 3, 1),
        lambda m, x: m.conv(x) * m.conv(x).stride(1),
        lambda m, x: m.conv(x).view(-1).view(torch.int32).float(),
    ],
)
def test_memory_formats_do_not_show(function: Any) -> None:
    both(Called(function), X, strides=False)


def test_only_the_inside_lies_channels_last() -> None:
    model = lively(nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)))
    frozen = freeze(model)
    seen: list[Tensor] = []
    frozen.layers["2"].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    assert frozen(X).is_contiguous()
    assert seen[0].is_contiguous(memory_format=LAST)
    assert frozen(X.to(memory_format=LAST)).is_contiguous(memory_format=LAST)
    frozen.lie_last(False)
    near(frozen(X), model(X).detach())
    assert seen[-1].is_contiguous()


# --- Sizes, forms and modes of a call -----------------------------------------------------------


def test_sizes_are_those_of_each_call() -> None:
    model = lively(nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU()))
    frozen = freeze(model)
    with torch.no_grad():
        for shape in [(1, 4, 5, 5), (3, 4, 1, 9), (1, 4, 5, 5), (0, 4, 5, 5), (2, 4, 30, 1)]:
            got, right = frozen(image(*shape)), model(image(*shape))
            assert got.shape == right.shape
            assert torch.allclose(got, right, atol=1e-5)


def test_an_image_without_batch() -> None:
    both(nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU()), X[0])
    both(Called(lambda m, x: m.conv(x) + x), X[0])


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [1, (0, 2), "same", "valid"])
def test_padding(mode: str, padding: Any) -> None:
    layer = nn.Conv2d(4, 6, (3, 4), padding=padding, padding_mode=mode, dilation=(1, 2))
    frozen = both(nn.Sequential(layer, nn.ReLU()), X)
    with torch.no_grad():
        near(next(iter(frozen.layers.values())).by_torch(X), F.relu(layer(X)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    share = {torch.float64: 1e-13, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).to(dtype)
    both(model, X.to(dtype), share=share)


def test_output_size_is_left_to_pytorch() -> None:
    up = nn.ConvTranspose2d(4, 4, 3, stride=2)
    frozen = both(Called(lambda m, x: m.up(m.conv(x), output_size=(14, 16)), up=up), X)
    row = frozen.report.rows[-1]
    assert (row.name, row.by) == ("up", "PyTorch")
    assert "with more than its input" in row.what


def test_dropout_and_identity_vanish() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Dropout2d(), nn.Identity(), nn.ReLU())
    assert whats(both(model, X)) == ["with relu"]
    frozen = both(Called(lambda m, x: F.relu(F.dropout(m.conv(x), 0.5, m.training))), X)
    assert whats(frozen)[0] == "with relu"


def test_arguments_and_results_of_any_form() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 2.0) -> Any:
            y = self.conv(x)
            return {"y": y * scale if mask is None else y * mask, "more": [y, None, 3]}

    model = Model().eval()
    frozen = freeze(model)
    right = model(X, scale=3.0)
    got = frozen(X, scale=3.0)
    near(got["y"], right["y"].detach())
    assert got["more"][1:] == [None, 3]
    with pytest.raises((AssertionError, RuntimeError), match="mask"):
        frozen(X, X)
    both_given = freeze(model, (X, X))
    near(both_given(X, X)["y"], model(X, X)["y"].detach())


# --- What cannot be traced ----------------------------------------------------------------------


class Flow(nn.Module):
    """Its way depends on the input; it takes its layers one by one, and looks at them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.steps = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for step in self.steps:
            x = step(x)
        if x.sum() > self.last.out_channels:
            x = x * 2
        return self.last(x)


@pytest.mark.parametrize("example", [None, X], ids=["", "example"])
def test_control_flow_is_frozen_part_by_part(example: Tensor | None) -> None:
    model = lively(Flow())
    frozen = freeze(model, example)
    with torch.no_grad():
        near(frozen(X), model(X))
        near(frozen(-X), model(-X))
    rows = {row.name: row.what for row in frozen.report.rows}
    assert rows["stem.0"] == "with batch norm, relu"
    assert "last" in rows
    assert "frozen part by part" in str(frozen.report)


def test_a_trace_that_is_wrong_is_found_by_the_example() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.calls = nn.Conv2d(4, 4, 1), 0

        def forward(self, x: Tensor) -> Tensor:
            factor = 1 if type(x) is Tensor else 2  # a stand-in for a tensor is none
            return self.conv(x) * factor

    frozen = freeze(Counting(), X)
    assert "frozen part by part" in str(frozen.report)


def test_hooks_are_called() -> None:
    def doubled(*call: Any) -> Tensor:
        seen.append("conv")
        y: Tensor = call[-1]
        return y * 2

    seen: list[str] = []
    model = lively(nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()), nn.Conv2d(4, 2, 1)))
    model[0].register_forward_hook(lambda *_: seen.append("block"))
    model[1].register_forward_hook(doubled)
    frozen = freeze(model)
    with torch.no_grad():
        y = frozen(X)
        assert seen == ["block", "conv"]
        near(y, model(X))
    assert frozen.report.taken == 2


def test_parametrizations_are_taken_as_they_are() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU())
    nn.utils.parametrizations.weight_norm(model[0])
    frozen = both(model, X)
    assert frozen.report.taken == 1
    assert nn.utils.parametrize.is_parametrized(model[0])


def test_classes_derived_from_pytorchs_are_left() -> None:
    class Own(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            return super().forward(input) * 2

    frozen = both(nn.Sequential(Own(4, 4, 3), nn.Conv2d(4, 4, 1)), X)
    assert frozen.report.taken == 1
    assert "Own is not one of" in str(frozen.report)


# --- What a frozen network is not ---------------------------------------------------------------


def conv() -> nn.Sequential:
    return lively(nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda f: f.train(), "cannot be trained. Train the model itself and freeze it again."),
        (lambda f: f.load_state_dict({}), "Load them into the model itself and freeze it again."),
        (lambda f: f.state_dict(), "Save that of the model itself"),
        (lambda f: f.double(), "Convert the model itself and freeze it again."),
        (lambda f: f(X.clone().requires_grad_()), "Call it under torch.no_grad()"),
    ],
)
def test_it_refuses_and_says_what_to_do(call: Any, text: str) -> None:
    frozen = freeze(conv())
    with pytest.raises(UnsupportedError) as error:
        call(frozen)
    assert text in str(error.value)
    assert frozen.eval() is frozen
    assert not frozen.training
    assert frozen.to("cpu") is frozen
    near(frozen(X), freeze(conv())(X))


def test_it_is_a_snapshot() -> None:
    model = conv().train()
    frozen = freeze(model)
    right = frozen(X)
    nn.init.zeros_(model[0].weight)
    assert torch.equal(frozen(X), right)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_who_watches_a_layer_sees_it() -> None:
    frozen = freeze(conv())
    right = frozen(X)
    seen: list[Tensor] = []
    hook = frozen.layers["0"].register_forward_hook(lambda *call: seen.append(call[-1]))
    assert torch.equal(frozen(X), right)
    hook.remove()
    assert torch.equal(frozen(X), right)
    assert len(seen) == 1


@pytest.mark.parametrize("again", [copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))])
def test_copies(again: Any) -> None:
    frozen = freeze(conv())
    right = frozen(X)
    copied = again(frozen)
    assert torch.equal(copied(X), right)
    copied.layers["0"].weight.zero_()
    copied.layers["0"]._forget()
    assert not torch.equal(copied(X), right)
    assert torch.equal(frozen(X), right)
    assert str(copied.report) == str(frozen.report)


def test_inference_mode_autocast_and_threads() -> None:
    model = conv()
    frozen = freeze(model)
    right = frozen(X)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(frozen(X), right)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(frozen(X), right)
    finally:
        torch.set_num_threads(threads)


def test_a_layer_that_pytorch_runs_faster_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from konv.nn.freeze import measure

    monkeypatch.setattr(
        measure,
        "alternate",
        lambda runs, _=0: {name: len(str(name)) / 10 for name in runs} | {"PyTorch": 0.1},
    )
    model = lively(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    frozen = freeze(model, X)
    assert frozen.report.taken == 0
    assert frozen.report.left_share == 1
    with torch.no_grad():
        near(frozen(X), model(X))
        assert torch.equal(frozen.layers["0"](X), frozen.layers["0"].by_torch(X))


def test_it_cannot_be_exported_and_says_so() -> None:
    with pytest.raises(UnsupportedError, match=r"Use the model itself: .*export as"):
        torch.export.export(freeze(conv()), (X,))


@pytest.mark.parametrize("example", [3, [X], (), {"x": X}, "x"], ids=repr)
def test_an_example_of_another_type(example: Any) -> None:
    with pytest.raises(TypeError, match=r"Use a tensor such as the model is called with, or a tu"):
        freeze(conv(), example)


def test_an_argument_that_does_not_fit() -> None:
    with pytest.raises(RuntimeError, match="x has 3 channels of float32"):
        freeze(conv())(X[:, :3])
    with pytest.raises(RuntimeError, match="float64"):
        freeze(conv())(X.double())
