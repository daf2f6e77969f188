"""konv.accelerate in place: another class for each convolution, nothing else; and back again."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from networks import NETWORKS
from torch import Tensor, nn
from torch.nn.utils import prune

import konv
import konv.nn
from konv.errors import ProblemError
from konv.nn import exchange
from konv.nn import faster as timing
from konv.nn.freeze import Frozen
from konv.runtime.weights import CACHE

X = torch.randn(2, 4, 6, 7, generator=torch.Generator().manual_seed(0))
LAYERS = ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")


def model() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, 2)),
    )


def state(m: nn.Module) -> list[Any]:
    """All that must not change: objects and their names, in order, and modes."""
    return [
        [(name, id(p)) for name, p in m.named_parameters()],
        [(name, id(b)) for name, b in m.named_buffers()],
        [(name, id(part), part.training) for name, part in m.named_modules()],
    ]


def types(m: nn.Module) -> list[type]:
    return [type(part) for part in m.modules()]


def test_layers_change_their_class_and_back() -> None:
    m = model().train()
    before, kinds, right = state(m), types(m), m(X).detach()
    assert konv.accelerate(m) is m
    assert type(m[0]) is konv.nn.Conv2d
    assert type(m[2][1]) is konv.nn.ConvTranspose2d
    assert state(m) == before
    assert torch.allclose(m(X), right, atol=1e-5)
    assert konv.restore(m) is m
    assert types(m) == kinds
    assert state(m) == before
    assert all(set(part.__dict__) == set(type(part)(*args).__dict__) for part, args in
               [(m[0], (4, 8, 3)), (m[2][1], (8, 4, 2))])  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_taken(name: str) -> None:
    layer = getattr(nn, name)(4, 6, 3, 2, 1)
    x = torch.randn(2, 4, *(7, 6, 5)[: int(name[-2])])
    right = layer(x)
    assert torch.allclose(konv.accelerate(layer)(x), right, atol=1e-5)
    assert type(layer) is getattr(konv.nn, name)
    size = tuple(n + 1 for n in right.shape[2:])
    if "Transpose" in name:
        assert layer(x, output_size=size).shape[2:] == size


def test_it_trains_as_before() -> None:
    ours, theirs = konv.accelerate(model()), model()
    for m in (ours, theirs):
        optimizer = torch.optim.SGD(m.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            m(X).square().mean().backward()
            optimizer.step()
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)
    ours.load_state_dict(model().state_dict())
    assert torch.allclose(ours.eval()(X), model().eval()(X), atol=1e-5)


def test_what_follows_in_place_finds_no_view() -> None:
    """Channels-last results are tensors of their own, into which autograd lets others write."""
    m = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True)).to(
        memory_format=torch.channels_last
    )
    theirs = copy.deepcopy(m)
    x = X.to(memory_format=torch.channels_last)
    y = konv.accelerate(m)(x)
    assert not y._is_view()
    assert y.stride() == theirs(x).stride()
    y.sum().backward()
    theirs(x).sum().backward()
    assert torch.allclose(m[0].weight.grad, theirs[0].weight.grad, atol=1e-4)


def test_hooks_and_parametrizations_stay() -> None:
    m, seen = model(), []
    nn.utils.parametrizations.weight_norm(m[0])
    m[0].register_forward_hook(lambda *_: seen.append("hook"))
    right, kinds = m(X), types(m)
    konv.accelerate(m)
    assert isinstance(m[0], konv.nn.Conv2d)
    assert torch.allclose(m(X), right, atol=1e-5)
    m(X).sum().backward()
    assert m[0].parametrizations.weight.original0.grad is not None
    assert seen == ["hook"] * 3
    konv.restore(m)
    assert types(m) == kinds
    assert torch.equal(m(X), right)


def test_parametrizations_may_go_or_come_meanwhile() -> None:
    m = model()
    nn.utils.parametrizations.weight_norm(m[0])
    right = m(X)
    konv.accelerate(m)
    nn.utils.parametrize.remove_parametrizations(m[0], "weight")
    nn.utils.parametrizations.weight_norm(m[2][1])
    assert type(m[0]) is konv.nn.Conv2d
    konv.restore(m)
    assert type(m[0]) is nn.Conv2d
    assert not isinstance(m[2][1], konv.nn.ConvTranspose2d)
    assert torch.allclose(m(X), right, atol=1e-5)


def test_what_is_left_is_reported() -> None:
    class Own(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            return super().forward(input) * 2

    m = nn.Sequential(Own(4, 4, 1), konv.nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    m[2].forward = m[2].forward
    konv.accelerate(m)
    rows = konv.nn.report(m).rows
    assert [(row.by, row.what) for row in rows] == [
        ("PyTorch", "Own is a class of its own"),
        ("konv", "konv's already"),
        ("PyTorch", "its forward was replaced"),
        ("konv", ""),
    ]
    assert [type(part) for part in m] == [Own, konv.nn.Conv2d, nn.Conv2d, konv.nn.Conv2d]
    assert type(konv.restore(m)[1]) is konv.nn.Conv2d


def test_what_is_left_is_timed_too() -> None:
    """By the one call of the example, as a layer of one's own may count its calls."""

    class Own(nn.Conv2d):
        calls = 0

        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            self.calls += 1
            return super().forward(input)

    m = nn.Sequential(Own(4, 4, 1), nn.Conv2d(4, 4, 1))
    report = konv.nn.report(konv.accelerate(m, X))
    assert m[0].calls == 1
    row = report.rows[0]
    assert row.before is not None
    assert row.after is None
    assert report.left_share is not None
    assert report.left_share > 0
    assert f"{row.before * 1e3:9.3f} ms  Own is a class of its own" in str(report)
    m = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)).eval()
    prune.identity(m[0], "weight")
    frozen = konv.accelerate(m, X, freeze=True).report
    assert (frozen.rows[-1].name, frozen.rows[-1].by) == ("0", "PyTorch")
    assert frozen.rows[-1].before is not None


@pytest.mark.parametrize("faster", ["konv", "PyTorch"])
def test_with_an_example_the_faster_one_computes(
    faster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def alternate(runs: Any) -> dict[str, float]:
        results = [run() for run in runs.values()]
        calls.append(results)
        return {name: 1.0 if name == faster else 2.0 for name in runs}

    monkeypatch.setattr(timing, "alternate", alternate)
    m = model().train()
    before = copy.deepcopy(m.state_dict())
    konv.accelerate(m, X)
    assert m.training
    assert all(part.training for part in m.modules())
    assert all(torch.equal(before[key], value) for key, value in m.state_dict().items())
    assert len(calls) == 2
    assert all(torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in calls)
    report = konv.nn.report(m)
    assert [row.by for row in report.rows] == [faster] * 2
    first = report.rows[0]
    assert (first.before, first.after) in [(1.0, 2.0), (2.0, 1.0)]
    assert report.left_share == float(faster == "PyTorch")
    assert isinstance(m[0], konv.nn.Conv2d) == (faster == "konv")
    assert f"{report.taken} of 2 convolutions by konv" in str(report)
    assert types(konv.restore(m)) == types(model())


def test_packed_weights_are_reported() -> None:
    """What konv holds of the model's layers, for as long as it does."""
    CACHE.clear()
    m = konv.accelerate(model())
    assert konv.nn.report(m).packed == 0
    m(X).sum().backward()
    rows = konv.nn.report(m).rows
    assert all(row.packed > 0 for row in rows)
    assert "MiB of packed weights" in str(konv.nn.report(m))
    # Another weight at the same address, as allocators like to give: nothing is packed of it.
    for weight in m.parameters():
        weight.data.neg_()
    assert konv.nn.report(m).packed == 0
    CACHE.clear()
    assert konv.nn.report(m).packed == 0
    assert konv.nn.report(konv.accelerate(nn.Conv2d(3, 4, 3, device="meta"))).packed == 0


def test_layers_that_the_example_does_not_call() -> None:
    m = nn.ModuleDict({"a": nn.Conv2d(4, 4, 1), "b": nn.Conv2d(4, 4, 1)})
    m.forward = lambda x: m["a"](x)  # type: ignore[method-assign]
    konv.accelerate(m, (X,))
    assert konv.nn.report(m).rows[1].what == "not called for the example"


def test_copies_are_accelerated_too() -> None:
    m = konv.accelerate(model())
    for copied in (copy.deepcopy(m), pickle.loads(pickle.dumps(m))):
        assert torch.equal(copied(X), m(X))
        assert types(konv.restore(copied)) == types(model())
    assert type(m[0]) is konv.nn.Conv2d


# --- Freezing through the same door --------------------------------------------------------------


def test_freeze_leaves_the_model_alone() -> None:
    m = model()
    before, kinds = state(m), types(m)
    frozen = konv.accelerate(m, freeze=True)
    assert isinstance(frozen, Frozen)
    assert (state(m), types(m)) == (before, kinds)
    assert konv.nn.report(frozen).taken == 2


def test_an_accelerated_model_may_be_frozen() -> None:
    m = konv.accelerate(model()).eval()
    frozen = konv.accelerate(m, X, freeze=True)
    with torch.no_grad():
        assert torch.allclose(frozen(X), m(X), atol=1e-5)
    assert [row.what for row in frozen.report.rows] == ["with batch norm, relu", ""]


@pytest.mark.slow
def test_konvs_own_layers_may_be_frozen() -> None:
    m = nn.Sequential(
        konv.nn.Conv2d(4, 4, 3, padding="causal"),
        konv.nn.Conv2d(4, 4, 2, padding=((1, 0), (2, 1))),
        konv.nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, padding_mode="reflect"),
        konv.nn.Conv2d(4, 4, 3, stride=2, padding="same"),
    ).eval()
    frozen = konv.accelerate(m, X, freeze=True)
    with torch.no_grad():
        for x in (X, X[:, :, :5, :4]):
            assert torch.allclose(frozen(x), m(x), atol=1e-5)
    assert "its padding depends on the size of the image" in str(frozen.report)


# --- Errors: nothing is changed ------------------------------------------------------------------


def test_what_is_no_model() -> None:
    for call in (konv.accelerate, konv.restore):
        with pytest.raises(TypeError, match=r"model is a list. Use a torch.nn.Module."):
            call([model()])


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("example", [3, [X], ()], ids=repr)
def test_an_example_of_another_type(example: Any, freeze: bool) -> None:
    m = model()
    kinds = types(m)
    with pytest.raises(TypeError, match=r"example is a .*Use a tensor such as"):
        konv.accelerate(m, example, freeze=freeze)
    assert types(m) == kinds


def test_an_example_that_the_model_refuses() -> None:
    m = model().train()
    before, kinds, held = state(m), types(m), set(m[0].__dict__)
    with pytest.raises(RuntimeError, match="channels"):
        konv.accelerate(m, X[:, :3])
    assert (state(m), types(m), set(m[0].__dict__)) == (before, kinds, held)
    assert not m[0]._forward_pre_hooks
    with pytest.raises(ProblemError, match="there is no report of this Sequential"):
        konv.nn.report(m)


def test_twice() -> None:
    m = konv.accelerate(model())
    with pytest.raises(ProblemError, match=r"accelerated already.*Use konv.restore\(model\) first"):
        konv.accelerate(m)
    with pytest.raises(ProblemError, match=r"or a part of it is"):
        konv.accelerate(nn.Sequential(m))
    konv.accelerate(konv.restore(m))


def test_a_part_may_be_restored() -> None:
    m = konv.accelerate(model())
    konv.restore(m[0])
    rows = konv.nn.report(m).rows
    assert [(row.by, row.what) for row in rows] == [("PyTorch", "restored"), ("konv", "")]
    konv.restore(m[2][1])
    assert konv.nn.report(m).taken == 0
    assert konv.nn.report(konv.accelerate(m)).taken == 2


def test_a_frozen_network_in_an_accelerated_model() -> None:
    part = konv.accelerate(model())
    frozen = konv.accelerate(part, freeze=True)
    right = frozen(X)
    m = konv.accelerate(nn.Sequential(nn.Conv2d(4, 4, 1), nn.Identity()))
    m[1] = frozen
    before = types(frozen)
    konv.restore(m)
    assert type(m[0]) is nn.Conv2d
    assert types(frozen) == before
    assert torch.equal(frozen(X), right)
    with pytest.raises(ProblemError, match="a frozen network cannot be accelerated"):
        konv.accelerate(m)


def test_lazy_layers_of_konv() -> None:
    assert exchange.why_not(konv.nn.LazyConv2d(4, 1)) == "konv's already"


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
@pytest.mark.parametrize("example", [None, X], ids=["alone", "example"])
def test_lazy_layers_are_taken(example: Tensor | None) -> None:
    """Before they know their channels: they have the weights that PyTorch's would have."""

    def lazy() -> Any:
        return nn.Sequential(nn.LazyConv2d(5, 3), nn.LazyConvTranspose2d(3, 2), nn.LazyConv2d(2, 1))

    ours, theirs = lazy(), lazy()
    konv.accelerate(ours)
    assert type(ours[0]) is konv.nn.LazyConv2d
    assert types(konv.restore(ours)) == types(theirs)
    torch.manual_seed(0)
    konv.accelerate(ours, example)
    if example is None:
        ours(X)
    torch.manual_seed(0)
    right = theirs(X)
    by = {row.name: row.by for row in konv.nn.report(ours).rows}
    assert by["0"] == "konv" or example is not None
    assert isinstance(ours[0], konv.nn.Conv2d) == (by["0"] == "konv")
    assert torch.allclose(ours(X), right, atol=1e-5)
    assert types(konv.restore(ours)) == types(theirs)


def test_a_frozen_network() -> None:
    frozen = konv.accelerate(model(), freeze=True)
    for call in (konv.accelerate, konv.restore):
        with pytest.raises(ProblemError, match=r"Use the model that it was made of"):
            call(frozen)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_keep_their_results(name: str) -> None:
    network = NETWORKS[name]
    torch.manual_seed(0)
    m, x = network.small().eval(), torch.randn(2, *network.small_shape)
    with torch.no_grad():
        right = m(x)
        assert torch.allclose(konv.accelerate(m)(x), right, atol=2e-5 * float(right.abs().max()))
        assert konv.nn.report(m).taken == len(konv.nn.report(m).rows)
        assert torch.equal(konv.restore(m)(x), right)
