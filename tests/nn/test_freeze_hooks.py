"""Freezing what others have changed or watch: hooks, replaced forwards, devices, parts of models.

Those that would crash the process run in a child.
"""

from __future__ import annotations

import ast
import copy
import pickle
import subprocess
import sys
import textwrap
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import konv.nn
from konv.errors import UnsupportedError
from konv.nn.freeze import Frozen, freeze

X = torch.randn(2, 4, 6, 7, generator=torch.Generator().manual_seed(0))
START = """
    import torch
    from torch import nn
    from konv.nn.freeze import freeze
    x = torch.ones(2, 4, 6, 7).to(memory_format=torch.channels_last)
"""
EACH = """
    import textwrap, traceback
    for name, code in {programs!r}.items():
        try:
            exec(textwrap.dedent({start!r}) + textwrap.dedent(code), {{"__name__": name}})
            print((name, ""), flush=True)
        except BaseException:
            print((name, traceback.format_exc()), flush=True)
"""
PROGRAMS = {
    "the default device does not matter": """
        frozen = freeze(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)).eval())
        right = frozen(x)
        with torch.device("meta"):
            assert torch.equal(frozen(x), right)
            assert frozen.to("cpu") is frozen
        layer = frozen.layers["0"]
        apart = layer(x, x[:1])
        with torch.device("meta"):
            assert torch.equal(layer(x, x[:1]), apart)
    """,
    "a residual of another kind is not read as numbers": """
        class Sum(nn.Module):
            def __init__(self):
                super().__init__()
                self.c = nn.Conv2d(4, 4, 1)

            def forward(self, x, r):
                return self.c(x) + r

        model = Sum().eval()
        frozen = freeze(model)
        frozen(x, x)
        try:
            frozen(x, x.to("meta"))
        except RuntimeError as error:
            assert "device" in str(error)
        else:
            raise AssertionError("nothing was said")
        with torch.no_grad():
            negative = torch._neg_view(x)
            layer = frozen.layers["c"]
            assert torch.allclose(layer(x, negative), model(x, -x), atol=1e-5)
            right = layer(x, x)
            parameter = nn.Parameter(x, requires_grad=False)
            assert torch.equal(layer(x, parameter), right)
    """,
    "arrays without memory": """
        frozen = freeze(nn.Sequential(nn.Conv2d(4, 4, 3)).eval())
        frozen(x)
        assert frozen(x[:0]).shape == (0, 4, 4, 5)
        x.untyped_storage().resize_(0)
        try:
            frozen(x)
        except RuntimeError as error:
            assert "x has no memory" in str(error)
        else:
            raise AssertionError("nothing was said")
    """,
}


@pytest.fixture(scope="module")
def survived() -> dict[str, str]:
    """What became of each of PROGRAMS, by its name, in one child for all: nothing if it ended well,
    what it raised, or where the child died. PyTorch takes seconds to load.
    """
    program = textwrap.dedent(EACH).format(start=START, programs=PROGRAMS)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    lines = map(ast.literal_eval, done.stdout.splitlines())
    found: dict[str, str] = dict(lines)
    died = f"the child's exit code is {done.returncode}: {done.stderr}"
    ended = "" if done.returncode == 0 else died  # none did well if the child dies in the end
    return {name: found.get(name, died) or ended for name in PROGRAMS}


# --- Devices ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_crash(name: str, survived: dict[str, str]) -> None:
    """Default devices, arrays of other kinds, arrays without memory."""
    assert not survived[name]


# --- Hooks and replaced forwards ----------------------------------------------------------------


def same(model: nn.Module, *args: Any, **kwargs: Any) -> Frozen:
    """The frozen model, which returns what the model does; so do its copies."""
    frozen = freeze(model)
    with torch.no_grad():
        right = model.eval()(*args, **kwargs)
        for each in (frozen, copy.deepcopy(frozen)):
            assert torch.allclose(each(*args, **kwargs), right, atol=1e-5)
    return frozen


def doubled(module: nn.Module, args: Any, y: Tensor) -> Tensor:
    return y * 2


def halved(module: nn.Module, args: tuple[Tensor]) -> Tensor:
    return args[0] / 2


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()


@pytest.mark.parametrize("model", [net(), nn.Conv2d(4, 4, 3), nn.ConvTranspose2d(4, 4, 3)])
def test_hooks_of_the_model_itself(model: nn.Module) -> None:
    model = copy.deepcopy(model)
    model.register_forward_hook(doubled)
    model.register_forward_pre_hook(halved)
    frozen = same(model, X)
    assert frozen.report.taken == 1
    assert torch.equal(pickle.loads(pickle.dumps(frozen))(X), frozen(X))


def replace(module: Any) -> None:
    old = module.forward
    module.forward = lambda x: old(x) * -2


@pytest.mark.parametrize("place", ["", "0", "1", "2"])
def test_a_replaced_forward(place: str) -> None:
    model = net()
    replace(model.get_submodule(place))
    frozen = same(model, X)
    assert frozen.report.taken == (0 if place in ("", "0") else 1)
    if place == "0":
        assert "its forward was replaced" in str(frozen.report)
    with pytest.raises(UnsupportedError, match=r"Call model.eval\(\) before freezing"):
        freeze(model.train())


def test_a_method_in_the_place_of_a_forward() -> None:
    model = net()
    model.forward = types.MethodType(lambda self, x: self[0](x) * 3, model)  # type: ignore[method-assign]
    assert "not frozen" in str(same(model.train(), X).report)


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("root", [False, True])
def test_a_tensor_that_a_hook_computes(name: str, root: bool) -> None:
    """Between load_state_dict and the next call it is that of the last call."""

    def made() -> nn.Sequential:
        model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU())
        prune.l1_unstructured(model[0], name, 0.3)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            model(X)
        return model.eval()

    model = made()
    model.load_state_dict(made().state_dict())
    frozen = same(model[0] if root else model, X)
    assert frozen.report.taken == 0


def test_a_tensor_of_the_model_itself_that_a_hook_computes() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.scale = nn.Conv2d(4, 4, 1), nn.Parameter(torch.randn(4, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) * self.scale

    model = Scaled()
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(model, "scale")
    with torch.no_grad():
        model(X)
        model.scale_g.mul_(3)  # type: ignore[operator]
    assert same(model, X).report.taken == 1


def test_hooked_blocks_keep_their_names_in_the_report() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.conv(x))

    class Flow(Block):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if x.sum() > 0 else self.conv(-x)

    model = nn.Sequential(Block(), nn.Sequential(Block(), Flow()))
    for hooked in (model[0], model[1], model[1][1]):
        hooked.register_forward_hook(doubled)
    frozen = same(model, X)
    assert sorted(frozen.layers) == ["0.conv", "1.0.conv", "1.1.conv"]
    assert frozen.report.taken == len(frozen.report.rows) == 3
    assert "1.1 was frozen part by part" in str(frozen.report)


# --- Arguments ----------------------------------------------------------------------------------


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.up = nn.ConvTranspose2d(4, 4, 3, 2)

    def forward(self, x: Tensor, twice: bool = False, *, scale: float = 1.0) -> Tensor:
        y = self.conv(x) * scale
        return self.conv(y) if twice else y


class Caller(nn.Module):
    """Its way depends on numbers, so its parts are frozen; it calls them in many ways."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.up = Twice(), nn.ConvTranspose2d(4, 4, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.part(x) if x.sum() > 1e9 else -self.part(x, False)
        y = y + self.part(x, True) + self.part(x, twice=True, scale=3.0)
        y = y + self.part(x=x, scale=2.0, twice=False)
        return self.up(y) + self.up(y, (13, 15)) + self.up(y, output_size=[13, 15])


def test_parts_are_called_with_any_arguments() -> None:
    assert same(Caller(), X).report.taken == 2


def test_arguments_by_name() -> None:
    model = Twice()
    frozen = same(model, X, twice=False)
    with torch.no_grad():
        for kwargs in ({"x": X}, {"scale": 3.0, "x": X}, {"x": X, "twice": False, "scale": 2.0}):
            assert torch.allclose(frozen(**kwargs), model(**kwargs), atol=1e-5)
    with pytest.raises(AssertionError, match="twice"):
        frozen(X, twice=True)
    with pytest.raises(TypeError, match="unknown"):
        frozen(X, unknown=1)
    same(nn.ConvTranspose2d(4, 4, 3, 2), X, output_size=[14, 16])
    same(nn.Conv2d(4, 4, 3), input=X)


# --- What a graph must not confuse --------------------------------------------------------------


class Named(nn.Module):
    def __init__(self, function: Any, **more: nn.Module) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(4, 4, 3, padding=1), function
        for name, module in more.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class Two(Named):
    def forward(self, x: Tensor, r: Any) -> Any:  # type: ignore[override]
        return self.function(self, x, r)


class Product(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y if x.sum() > -1e9 else x


def test_a_module_with_the_name_of_a_sum() -> None:
    add = Product()
    add.register_forward_hook(lambda *_: None)  # so it stays a step of its own
    same(Named(lambda m, x: m.add(m.conv(x), x), add=add), X)


def written(function: Any) -> Any:
    def forward(m: Any, x: Tensor) -> Tensor:
        y: Tensor = m.conv(x)
        function(m, y)
        return y

    return forward


@pytest.mark.parametrize(
    "write",
    [
        lambda _, y: y.flatten(1).mul_(2),
        lambda _, y: y.view(2, -1)[0].mul_(2),
        lambda _, y: y.reshape(2, -1).mul_(2),
        lambda _, y: torch.flatten(y, 1).mul_(2),
        lambda m, y: m.flat(y).mul_(2),
        lambda _, y: y.contiguous().mul_(2),
        lambda _, y: y.ravel()[3:].mul_(2),
    ],
)
def test_writes_through_reshaped_views(write: Any) -> None:
    frozen = same(Named(written(write), flat=nn.Flatten()), X)
    assert not frozen.last


def test_writes_into_fresh_results_do_not_keep_it_from_lying_last() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ReLU(True))
    assert same(nn.Sequential(model, nn.Flatten()), X).last


def test_depthwise_separable_layers_are_frozen() -> None:
    model = nn.Sequential(konv.nn.DepthwiseSeparableConv2d(4, 6, 3), nn.ReLU()).eval()
    rows = same(model, X).report.rows
    assert [(row.name, row.what) for row in rows] == [
        ("0.depthwise", ""),
        ("0.pointwise", "with relu"),
    ]


# --- Sums ---------------------------------------------------------------------------------------


def test_a_number_is_added_to_an_image_without_batch() -> None:
    model = Two(lambda m, x, k: torch.relu(m.conv(x) + k))
    for k in (2.0, 3, torch.tensor(2.0), torch.ones(4, 1, 1), torch.ones(7)):
        frozen = freeze(model)
        with torch.no_grad():
            assert torch.allclose(frozen(X[0], k), model(X[0], k), atol=1e-5)
            assert torch.allclose(frozen(X, k), model(X, k), atol=1e-5)


def test_a_sum_in_place_keeps_its_dtype() -> None:
    def iadd(m: Any, x: Tensor, r: Tensor) -> Tensor:
        y: Tensor = m.conv(x)
        y += r
        return torch.relu(y)

    model = Two(iadd)
    frozen = freeze(model)
    assert frozen.report.rows[0].what == "with residual, relu"
    with torch.no_grad():
        y = frozen(X, X.double())
        assert y.dtype == model(X, X.double()).dtype == torch.float32
        assert torch.allclose(y, model(X, X.double()), atol=1e-5)
        with pytest.raises(RuntimeError):
            frozen(X, X[None])


# --- As part of a larger model ------------------------------------------------------------------


class Flows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(4, 4, 1), nn.Linear(7, 7)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(self.conv(x))
        return y if y.sum() > 0 else -y


def test_it_adds_nothing_to_the_state_of_a_larger_model() -> None:
    frozen = freeze(Flows())
    right = frozen(X)
    larger = nn.Sequential(frozen, nn.Conv2d(4, 2, 1))
    state = larger.state_dict()
    assert list(state) == ["1.weight", "1.bias"]
    nn.init.zeros_(larger[1].weight)  # type: ignore[arg-type]
    larger.load_state_dict({name: value + 1 for name, value in state.items()})
    assert larger[1].weight.min() > 0  # type: ignore[operator]
    assert torch.equal(frozen(X), right)
    with pytest.raises(RuntimeError, match=r"0\.extra"):
        larger.load_state_dict({**state, "0.extra": torch.ones(1)})


def test_a_larger_model_is_trained_around_it() -> None:
    """train() reaches every other part, before and behind; the frozen one stays as it is."""
    frozen = freeze(Flows())
    right = frozen(X)
    larger = nn.Sequential(nn.Dropout(), frozen, nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
    for mode in (False, True, True):
        assert larger.train(mode) is larger
        assert [larger.training, *(part.training for part in larger)] == [
            mode,
            mode,
            False,
            mode,
            mode,
        ]
        assert not any(module.training for module in frozen.modules())
    with pytest.raises(UnsupportedError, match="cannot be trained"):
        frozen.train()
    assert not any(module.training for module in frozen.modules())
    assert torch.equal(frozen(X), right)
    larger(X).square().sum().backward()
    assert larger[2].weight.grad is not None  # type: ignore[union-attr]


@pytest.mark.parametrize("error", [ValueError(""), AttributeError("no\nway"), RuntimeError()])
def test_a_model_that_cannot_be_copied(error: Exception) -> None:
    class Own(nn.Conv2d):
        def __deepcopy__(self, memo: Any) -> Any:
            raise error

    said = r"cannot be copied \((no|ValueError|RuntimeError)\), and"
    with pytest.raises(UnsupportedError, match=said):
        freeze(Own(4, 4, 1))
