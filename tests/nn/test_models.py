"""konv.accelerate on models as users have them: what PyTorch offers around a layer goes on."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

import konv
import konv.nn
from konv.errors import UnsupportedError

X = torch.randn(2, 3, 12, 13, generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def model() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, groups=8), nn.ConvTranspose2d(8, 4, 2, 2),
    )  # fmt: skip


def near(found: Any, right: Any) -> None:
    __tracebackhide__ = True
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)


def gradients(m: nn.Module, x: Tensor = X) -> list[Tensor]:
    return list(torch.autograd.grad(m(x).square().mean(), list(m.parameters())))


# --- Weights that are shared or computed ---------------------------------------------------------


def test_a_layer_with_two_places_and_a_weight_of_two_layers() -> None:
    torch.manual_seed(0)
    one, other = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
    other.weight = one.weight
    m = nn.Sequential(one, nn.BatchNorm2d(3), nn.ReLU(), one, other, nn.BatchNorm2d(3)).eval()
    right, wanted = m(X).detach(), gradients(m)
    konv.accelerate(m, X)
    assert m[4].weight is m[0].weight
    assert [row.name for row in konv.nn.report(m).rows] == ["0", "4"]
    near(m(X), right)
    near(gradients(m), wanted)
    near(konv.accelerate(m, X, freeze=True)(X), right)
    konv.restore(m)
    assert (type(one), type(other)) == (nn.Conv2d, nn.Conv2d)


def _pruned(m: Any) -> None:
    prune.l1_unstructured(m[0], "weight", amount=0.5)


def _older_weight_norm(m: Any) -> None:
    nn.utils.weight_norm(m[0])


def _older_spectral_norm(m: Any) -> None:
    nn.utils.spectral_norm(m[3])


def _weight_norm(m: Any) -> None:
    nn.utils.parametrizations.weight_norm(m[4])


def _spectral_norm(m: Any) -> None:
    nn.utils.parametrizations.spectral_norm(m[0])


@pytest.mark.parametrize(
    "change", [_pruned, _older_weight_norm, _older_spectral_norm, _weight_norm, _spectral_norm]
)
def test_weights_that_are_computed(change: Any) -> None:
    """Results, gradients and a frozen copy, also of a model that has just been called with them."""
    m = model().eval()
    change(m)
    kinds = [type(part) for part in m.modules()]
    right, wanted = m(X), gradients(m)
    konv.accelerate(m)
    near(m(X), right)
    near(gradients(m), wanted)
    near(konv.accelerate(m, freeze=True)(X), right.detach())
    konv.restore(m)
    assert [type(part) for part in m.modules()] == kinds


def test_folding_by_pytorchs_own_tool() -> None:
    m = konv.accelerate(model().eval())
    right = m(X)
    m[0], m[1] = torch.nn.utils.fusion.fuse_conv_bn_eval(m[0], m[1]), nn.Identity()
    assert type(m[0]) is konv.nn.Conv2d
    near(m(X), right)


# --- Around the model ----------------------------------------------------------------------------


def test_inside_data_parallel() -> None:
    m = nn.DataParallel(model().eval())
    right = m(X).detach()
    near(konv.accelerate(m, X)(X), right)
    assert "module.0" in [row.name for row in konv.nn.report(m).rows]
    near(konv.accelerate(m, X, freeze=True)(X), right)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints(reentrant: bool) -> None:
    m = model()
    wanted = gradients(copy.deepcopy(m))
    konv.accelerate(m)
    y = checkpoint(m, X.clone().requires_grad_(), use_reentrant=reentrant)
    y.square().mean().backward()
    near([p.grad for p in m.parameters()], wanted)


def test_transforms() -> None:
    """A gradient for each image, and an ensemble of models."""
    m = model().eval()
    names = dict(m.named_parameters())

    def loss(names: Any, x: Tensor) -> Any:
        return torch.func.functional_call(m, names, (x[None],)).square().mean()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))
    wanted = each(names, X)
    konv.accelerate(m)
    near(each(names, X), wanted)
    several = [konv.accelerate(model().eval()), m]
    parameters, buffers = torch.func.stack_module_state(several)
    bare = copy.deepcopy(m).to("meta")

    def call(parameters: Any, buffers: Any) -> Any:
        return torch.func.functional_call(bare, (parameters, buffers), (X,))

    found = torch.func.vmap(call)(parameters, buffers)
    near(found, torch.stack([one(X) for one in several]))


def test_curvature() -> None:
    m = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.ConvTranspose2d(2, 1, 2)).double()
    x = torch.randn(1, 1, 3, 3, dtype=torch.float64)

    def all_of(m: Any) -> Any:
        return (
            torch.func.jacrev(m)(x),
            torch.func.jacfwd(m)(x),
            torch.func.hessian(lambda x: m(x).square().sum())(x),
        )

    wanted = all_of(m)
    torch.testing.assert_close(all_of(konv.accelerate(m)), wanted)


class Net(nn.Module):
    """With a forward of its own, as PyTorch compiles none of its own containers'."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = model()

    def forward(self, x: Tensor) -> Any:
        return self.layers(x) * 2


@pytest.mark.parametrize("first", [True, False])
def test_a_model_that_compiles_itself(first: bool) -> None:
    """Accelerated before or after: what was compiled with other layers is not used."""
    torch._dynamo.reset()
    m = Net().eval()
    right = m(X).detach()
    if first:
        konv.accelerate(m)
    m.compile(backend="aot_eager")
    near(m(X), right)
    if not first:
        konv.accelerate(m)
    near(m(X), right)
    near(konv.restore(m)(X), right)


def test_inference_mode() -> None:
    """Models made, accelerated and frozen in it, and tensors from it."""
    with torch.inference_mode():
        m = model().eval()
        right = m(X)
        near(konv.accelerate(m, X)(X), right)
        frozen = konv.accelerate(m, X, freeze=True)
        x = X.clone()
    near(frozen(x), right.clone())
    with torch.no_grad():
        near(m(x), right.clone())


@pytest.mark.parametrize("freeze", [False, True])
def test_made_under_autocast(freeze: bool) -> None:
    """Accelerated there, it computes as PyTorch's layers do there; a frozen one is float32's."""
    m = model().eval()
    right = m(X).detach()
    with torch.autocast("cpu", torch.bfloat16):
        lower = m(X)
        made = konv.accelerate(m, X, freeze=freeze)
        found = made(X)
    assert found.dtype == (torch.float32 if freeze else lower.dtype)
    torch.testing.assert_close(found.float(), right, rtol=3e-2, atol=3e-2)


def test_meta() -> None:
    """Built without memory, accelerated, and given some afterwards."""
    with torch.device("meta"):
        m = konv.accelerate(model().eval())
        assert m(X.to("meta")).shape == model()(X.to("meta")).shape
        frozen = konv.accelerate(m, X.to("meta"), freeze=True)
        assert frozen(X.to("meta")).is_meta
    m.to_empty(device="cpu").load_state_dict(model().state_dict())
    near(m(X), model().eval()(X))


# --- Layers that are not konv's ------------------------------------------------------------------


class Standardised(nn.Conv2d):
    """A forward of its own."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(input, weight, self.bias)


class Doubled(nn.Conv2d):
    """A forward as PyTorch's, of other weights."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        return super()._conv_forward(input, weight * 2, bias)


class DoubledOurs(konv.nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input) * 2


@pytest.mark.parametrize("kind", [Standardised, Doubled, DoubledOurs])
def test_classes_of_ones_own(kind: Any) -> None:
    m = nn.Sequential(kind(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    right = m(X).detach()
    near(konv.accelerate(m, X)(X), right)
    assert type(m[0]) is kind
    near(konv.accelerate(m, X, freeze=True)(X), right)


# --- Written down --------------------------------------------------------------------------------


def test_torch_jit_trace() -> None:
    """PyTorch's own operators, for any size, in a file without konv."""
    m = konv.accelerate(model().eval())
    traced, file = torch.jit.trace(m, X), io.BytesIO()
    torch.jit.save(traced, file)
    assert "konv::" not in str(traced.inlined_graph)
    file.seek(0)
    x = X[:, :, :9]
    near(torch.jit.load(file)(x), m(x))


def test_torch_jit_script_is_refused() -> None:
    """With the way out; and nothing was changed, so the way out is open."""
    m = konv.accelerate(model().eval())
    kinds = [type(part) for part in m.modules()]
    for part in (m, m[0], m[4], konv.nn.Linear(3, 2), konv.accelerate(m, freeze=True)):
        with pytest.raises(UnsupportedError, match=r"torch\.jit\.script.*(Use torch|model itself)"):
            torch.jit.script(part)
    assert [type(part) for part in m.modules()] == kinds
    near(torch.jit.script(konv.restore(copy.deepcopy(m)))(X), m(X))


def _forward_mode(m: Any) -> Any:
    with forward_ad.dual_level():
        return m(forward_ad.make_dual(X, X))


@pytest.mark.parametrize(
    "how",
    [
        lambda m: torch.jit.trace(m, X),
        lambda m: make_fx(m)(X),
        lambda m: torch.export.export(m, (X,)),
        lambda m: torch.func.vmap(m)(X[None]),
        lambda m: torch.func.jvp(m, (X,), (X,)),
        _forward_mode,
    ],
    ids=["trace", "make_fx", "export", "vmap", "jvp", "forward mode"],
)
def test_a_frozen_network_is_not_written_down(how: Any) -> None:
    """A tracer would see empty results, and write those down."""
    frozen = konv.accelerate(model(), freeze=True)
    frozen(X)
    with pytest.raises(Exception, match=r"frozen network computes numbers.*Use the model itself"):
        how(frozen)


def test_a_frozen_network_inside_what_is_compiled() -> None:
    torch._dynamo.reset()
    frozen = konv.accelerate(model(), freeze=True)
    right = frozen(X)
    compiled = torch.compile(nn.Sequential(frozen, nn.ReLU()), backend="eager")
    near(compiled(X), right.relu())
    with torch.utils.flop_counter.FlopCounterMode(display=False):  # a mode that looks on
        near(frozen(X), right)


@pytest.mark.parametrize("strict", [False, True])
def test_exports_of_any_size(strict: bool) -> None:
    m = konv.accelerate(model().eval())
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    exported = torch.export.export(m, (X,), strict=strict, dynamic_shapes=(sizes,))
    for each in (exported, exported.run_decompositions()):
        assert "konv" not in str(each.graph)
        x = X[:1, :, :9, :10]
        near(each.module()(x), m(x))
