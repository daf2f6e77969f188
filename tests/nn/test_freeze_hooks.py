"""Freezing what others have changed or watch: hooks, replaced forwards, devices, parts of models.

Those that would crash the process run in a child.
"""

from __future__ import annotations

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

from konv.errors import UnsupportedError
from konv.nn.freeze import Frozen, freeze

X = torch.randn(2, 4, 6, 7, generator=torch.Generator().manual_seed(0))
START = """
    import torch
    from torch import nn
    from konv.nn.freeze import freeze
    x = torch.ones(2, 4, 6, 7).to(memory_format=torch.channels_last)
"""


def child(code: str) -> None:
    """Run it in a process of its own, which must not die."""
    program = textwrap.dedent(START) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- Devices ------------------------------------------------------------------------------------


def test_the_default_device_does_not_matter() -> None:
    child("""
        frozen = freeze(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)).eval())
        right = frozen(x)
        with torch.device("meta"):
            assert torch.equal(frozen(x), right)
            assert frozen.to("cpu") is frozen
        layer = frozen.layers["0"]
        apart = layer(x, x[:1])
        with torch.device("meta"):
            assert torch.equal(layer(x, x[:1]), apart)
    """)


def test_a_residual_of_another_kind_is_not_read_as_numbers() -> None:
    child("""
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
    """)


def test_arrays_without_memory() -> None:
    child("""
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
    """)


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
