"""Tensors: PyTorch's numbers, memory formats and refusals; DLPack; denormals, NaN; `out`."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from math import prod
from time import perf_counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everyone writes it
from functional.witness import tolerance
from torch import nn

import konv
from konv.geometry import Conv

Array = np.ndarray[Any, Any]
DTYPES = (torch.float32, torch.float64)
LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def tensor(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def function(dims: int, transposed: bool = False, module: Any = konv) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(module, f"conv{'_transpose' * transposed}{dims}d")
    return found


def near(y: Any, conv: Conv, x: Any, w: Any, b: Any = None) -> None:
    """y is PyTorch's result in float64, within konv's bound."""
    __tracebackhide__ = True
    call = function(conv.dims, conv.transposed, F)
    f64 = [None if a is None else torch.as_tensor(a).detach().double() for a in (x, w, b)]
    stride, dilation = conv.axes[0].stride, conv.axes[0].dilation
    lo = conv.axes[0].lo
    assert not conv.transposed
    expected = call(*f64, stride, lo, dilation, conv.groups).numpy()
    got = np.asarray(y.detach() if isinstance(y, torch.Tensor) else y)
    assert got.dtype.name == conv.dtype
    assert got.shape == expected.shape == conv.out_shape
    bound = tolerance(conv, *(None if a is None else a.numpy() for a in f64))
    assert (np.abs(got - expected) <= bound).all()


# --- The article's examples ---------------------------------------------------------------------

EXAMPLES = [
    (nn.Conv2d, (1, 1), {"kernel_size": 2, "stride": 2, "padding": 1}, (1, 1, 5, 5), (1, 1, 3, 3)),
    (nn.ConvTranspose2d, (1, 1), {"kernel_size": 2, "bias": False}, (1, 1, 5, 5), (1, 1, 6, 6)),
    (
        nn.Conv2d,
        (1, 1, 2),
        {"stride": 2, "padding": 2, "dilation": 2},
        (1, 1, 5, 5),
        (1, 1, 4, 4),
    ),
    (
        nn.Conv2d,
        (4, 2),
        {"kernel_size": 2, "stride": 2, "padding": 2, "groups": 2},
        (1, 4, 5, 5),
        (1, 2, 4, 4),
    ),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["array", "tensor"])
@pytest.mark.parametrize("example", EXAMPLES, ids=["strided", "transposed", "dilated", "grouped"])
def test_the_articles_examples(example: Any, kind: str, dtype: torch.dtype) -> None:
    """PyTorch's layer and konv's function give the same numbers, with PyTorch's own weights."""
    layer, channels, options, shape, out_shape = example
    torch.manual_seed(0)
    module = layer(*channels, **options, dtype=dtype)
    x = tensor(*shape, dtype=dtype)
    with torch.no_grad():
        w, b = module.weight, module.bias
        arguments: list[Any] = [x, w, b]
        if kind == "array":
            arguments = [None if a is None else a.detach().numpy() for a in arguments]
        call = function(2, layer is nn.ConvTranspose2d)
        taken = ("stride", "padding", "dilation", "groups")
        got = call(*arguments, **{key: options[key] for key in taken if key in options})
        expected = module.double()(x.double()).numpy()
    assert isinstance(got, torch.Tensor if kind == "tensor" else np.ndarray)
    assert tuple(got.shape) == expected.shape == out_shape
    got = np.asarray(got)
    assert got.dtype.name == str(dtype).removeprefix("torch.")
    terms = prod(module.kernel_size) * shape[1] + 1
    size = x.abs().amax().item() * module.weight.detach().abs().amax().item() + 1
    assert np.abs(got - expected).max() <= terms * np.finfo(got.dtype).eps * terms * size
    assert np.abs(expected).max() > 0.1


# --- Memory formats -----------------------------------------------------------------------------


def formats(y: torch.Tensor) -> tuple[bool, bool]:
    return y.is_contiguous(), y.is_contiguous(memory_format=LAST[y.dim() - 2])


def shapes(dtype: torch.dtype) -> Iterator[tuple[int, ...]]:
    """n, ci, co, h, w, k, groups."""
    sizes = ((1, 6), (5, 6), (1, 1))[: 3 if dtype is torch.float32 else 1]
    grid = product((1, 2), (1, 4), (1, 4), sizes, (1, 3), (1, 4))
    return ((n, ci, co, *hw, k, g) for n, ci, co, hw, k, g in grid if g == 1 or ci == co == g)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_memory_format_of_images_is_pytorchs(dtype: torch.dtype, transposed: bool) -> None:
    """Over all of C == 1, H == W == 1, depthwise: F.conv2d's own format, and its numbers."""
    call, theirs, wrong, count = function(2, transposed), function(2, transposed, F), [], 0
    for (n, ci, co, h, w, k, groups), x_last, w_last in product(shapes(dtype), (0, 1), (0, 1)):
        x = tensor(n, ci, h, w, dtype=dtype)
        first = (ci, co // groups) if transposed else (co, ci // groups)
        weight = tensor(*first, k, k, dtype=dtype, seed=1)
        x = x.to(memory_format=LAST[2]) if x_last else x
        weight = weight.to(memory_format=LAST[2]) if w_last else weight
        got = call(x, weight, None, 1, k // 2, groups=groups)
        expected = theirs(x, weight, None, 1, k // 2, groups=groups)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        count += 1
        if formats(got) != formats(expected):
            wrong.append((tuple(x.shape), x.stride(), tuple(weight.shape), weight.stride()))
    assert count == (240 if dtype is torch.float32 else 80)
    assert not wrong, f"{len(wrong)} of {count} in another memory format, first x, w: {wrong[:3]}"


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("x_last", [False, True])
@pytest.mark.parametrize("w_last", [False, True])
def test_volumes_follow_the_same_rule(x_last: bool, w_last: bool, transposed: bool) -> None:
    """PyTorch's own format of volumes depends on which of its kernels runs; konv's does not."""
    x, w = tensor(2, 4, 3, 5, 6), tensor(4, 4, 3, 3, 3, seed=1)
    x = x.to(memory_format=LAST[3]) if x_last else x
    w = w.to(memory_format=LAST[3]) if w_last else w
    y = function(3, transposed)(x, w, padding=1)
    assert formats(y) == (not (x_last or w_last), x_last or w_last)
    expected = function(3, transposed, F)(x, w, padding=1)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


def test_sequences_are_contiguous() -> None:
    """PyTorch has no channels-last of three axes."""
    x, w = tensor(2, 7, 4).permute(0, 2, 1), tensor(6, 4, 3)
    y = konv.conv1d(x, w)
    assert y.is_contiguous()
    torch.testing.assert_close(y, F.conv1d(x, w), rtol=1e-5, atol=1e-5)


def test_steps_of_a_channels_last_image_are_channels_last() -> None:
    """Every second pixel of one: not dense, and PyTorch says channels-last."""
    x = tensor(2, 4, 10, 10).to(memory_format=LAST[2])[:, :, ::2, ::2]
    w = tensor(5, 4, 3, 3, seed=1)
    got, expected = konv.conv2d(x, w), F.conv2d(x, w)
    assert formats(got) == formats(expected) == (False, True)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("last", [False, True])
def test_without_a_batch(last: bool, dtype: torch.dtype) -> None:
    x, w = tensor(4, 7, 6, dtype=dtype), tensor(5, 4, 3, 3, dtype=dtype, seed=1)
    x = x.permute(1, 2, 0).contiguous().permute(2, 0, 1) if last else x
    y = konv.conv2d(x, w, padding=1)
    assert y.shape == F.conv2d(x, w, padding=1).shape
    near(y[None], Conv.of((1, *x.shape), 5, 3, padding=1, dtype=str(dtype)[6:]), x[None], w)
    assert torch.equal(konv.conv2d(x[None], w, padding=1)[0], y)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_output_size(dims: int) -> None:
    """Every size that PyTorch's layer can be asked for, and none besides."""
    x, layer = tensor(1, 3, *(4, 3, 5)[:dims]), (None, nn.ConvTranspose1d, nn.ConvTranspose2d,
                                                  nn.ConvTranspose3d)[dims]  # fmt: skip
    assert layer
    module = layer(3, 2, 3, stride=3, padding=1, bias=False)
    call, w = function(dims, transposed=True), module.weight.detach()
    least = [(n - 1) * 3 + 1 for n in x.shape[2:]]
    for more in product(range(3), repeat=dims):
        wanted = [a + b for a, b in zip(least, more, strict=True)]
        with torch.no_grad():
            expected = module(x, output_size=wanted)
        got = call(x, w, stride=3, padding=1, output_size=wanted)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        whole = call(x, w, stride=3, padding=1, output_size=[1, 2, *wanted])
        assert torch.equal(whole, got)
    for bad in (-1, 3):
        wanted = [least[0] + bad, *least[1:]]
        with pytest.raises(konv.ProblemError, match="cannot be reached"):
            call(x, w, stride=3, padding=1, output_size=wanted)
        with pytest.raises(ValueError, match="output size"):
            module(x, output_size=wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_an_empty_batch(transposed: bool, dtype: torch.dtype) -> None:
    x, w = torch.empty(0, 4, 7, 6, dtype=dtype), tensor(4, 4, 3, 3, dtype=dtype)
    got = function(2, transposed)(x, w, w[:, 0, 0, 0], stride=2, padding=1)
    expected = function(2, transposed, F)(x, w, w[:, 0, 0, 0], stride=2, padding=1)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    array = function(2, transposed)(x.numpy(), w.numpy(), stride=2, padding=1)
    assert array.shape == tuple(expected.shape)


@pytest.mark.parametrize("layout", [None, "NHWC"])
def test_results_are_on_the_cpu_whatever_the_default_device(layout: str | None) -> None:
    """As PyTorch's own, which lie where x does."""
    conv = Conv.of((2, 6, 6, 6), 4, 3, padding=1)
    x, w, r = tensor(*conv.in_shape), tensor(4, 6, 3, 3, seed=1), tensor(2, 4, 6, 6, seed=2)
    r = r.permute(0, 2, 3, 1) if layout else r.transpose(2, 3)  # copied to where the result lies
    dy = tensor(*conv.out_shape, seed=3)

    def results() -> tuple[torch.Tensor, ...]:
        seen = x.permute(0, 2, 3, 1) if layout else x
        y = konv.conv2d(seen, w, padding=1, layout=layout)
        added = konv.conv2d(seen, w, padding=1, layout=layout, residual=r)
        return y, added, konv.prepare(conv, w)(x), konv.weight_gradient(conv, x, dy)

    with torch.device("meta"):
        found = results()
    for a, b in zip(found, results(), strict=True):
        assert a.device.type == "cpu"
        assert torch.equal(a, b)
    none = conv.with_batch(0)
    with torch.device("meta"):
        assert not konv.weight_gradient(none, x[:0], dy[:0]).any()


# --- Gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["x", "weight", "bias"])
def test_a_gradient_is_computed_if_it_is_asked_for(which: str) -> None:
    """And not under no_grad and inference_mode, nor of what is detached."""
    names = {"x": tensor(1, 3, 6, 6), "weight": tensor(4, 3, 3, 3, seed=1), "bias": tensor(4)}
    names[which].requires_grad_()
    y, expected = konv.conv2d(**names), F.conv2d(names["x"], names["weight"], names["bias"])
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    dy = tensor(1, 4, 4, 4, seed=2)
    (got,), (wanted,) = (torch.autograd.grad(a, [names[which]], dy) for a in (y, expected))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            y = konv.conv2d(**names)
            assert not y.requires_grad
            torch.testing.assert_close(y, expected.detach(), rtol=1e-5, atol=1e-5)
    detached = {key: value.detach() for key, value in names.items()}
    assert not konv.conv2d(**detached).requires_grad
    assert konv.conv2d(**names).requires_grad


def test_a_prepared_layer_refuses_gradients_too() -> None:
    x, w = tensor(1, 3, 6, 6).requires_grad_(), tensor(4, 3, 3, 3, seed=1)
    conv = Conv.of((1, 3, 6, 6), 4, 3)
    with pytest.raises(konv.UnsupportedError, match="weight requires grad"):
        konv.prepare(conv, w.clone().requires_grad_())
    with pytest.raises(konv.UnsupportedError, match="bias requires grad"):
        konv.prepare(conv, w, tensor(4).requires_grad_())
    layer = konv.prepare(conv, w)
    with pytest.raises(konv.UnsupportedError, match="x requires grad"):
        layer(x)
    with torch.no_grad():
        near(layer(x), conv, x, w)


@pytest.mark.parametrize("which", ["x", "out", "residual"])
def test_a_prepared_layer_looks_at_each_call(which: str) -> None:
    """What was recognised as an array met before is not taken for one that must be refused."""
    layer = konv.prepare(Conv.of((1, 3, 6, 6), 4, 3), tensor(4, 3, 3, 3, seed=1))
    given = {"x": tensor(1, 3, 6, 6), "out": torch.empty(1, 4, 4, 4)}
    if which == "residual":
        given["residual"] = tensor(1, 4, 4, 4)
    for _ in range(3):
        layer(**given)
    good = given[which]
    for odd, text in (
        (good.clone().requires_grad_(), "requires grad"),
        (good.to("meta"), "on meta"),
        (good.to_sparse(), "sparse_coo"),
    ):
        with pytest.raises(konv.UnsupportedError, match=f"{which} .*{text}"):
            layer(**given | {which: odd})
    with pytest.raises(konv.KonvError, match=f"{which} "):
        layer(**given | {which: good.double()})
    layer(**given)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # PyTorch's own
def test_a_forward_gradient_is_not_lost() -> None:
    """Dual numbers (forward mode) do not require grad; prepared layers have no tangent for them."""
    w, t = tensor(4, 3, 3, 3, seed=1), tensor(1, 3, 6, 6, seed=2)
    with torch.autograd.forward_ad.dual_level():
        x = torch.autograd.forward_ad.make_dual(tensor(1, 3, 6, 6), t)
        y = torch.autograd.forward_ad.unpack_dual(konv.conv2d(x, w))
        torch.testing.assert_close(y.tangent, konv.conv2d(t, w), rtol=1e-5, atol=1e-5)
        with pytest.raises(konv.UnsupportedError, match="x carries a forward gradient"):
            konv.prepare(Conv.of((1, 3, 6, 6), 4, 3), w)(x)
        with pytest.raises(konv.UnsupportedError, match="x carries a forward gradient"):
            konv.conv2d(x, w, out=torch.empty(1, 4, 4, 4))


def test_writing_to_out_is_seen_by_autograd() -> None:
    """A tensor saved for a backward pass and then overwritten: PyTorch must be able to notice."""
    out = torch.zeros(1, 4, 4, 4)
    before = out._version
    konv.conv2d(tensor(1, 3, 6, 6), tensor(4, 3, 3, 3), out=out)
    assert out._version > before


def test_out_that_requires_grad_is_refused() -> None:
    """As PyTorch refuses it: "out=... arguments don't support automatic differentiation"."""
    x, w = tensor(1, 3, 6, 6), tensor(4, 3, 3, 3)
    out = torch.zeros(1, 4, 4, 4, requires_grad=True)
    with pytest.raises(konv.KonvError, match="out requires grad"):
        konv.conv2d(x, w, out=out)
    with torch.no_grad():
        konv.conv2d(x, w, out=out)
    near(out, Conv.of((1, 3, 6, 6), 4, 3), x, w)


# --- Refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["x", "weight", "bias"])
@pytest.mark.parametrize(
    ("odd", "text"),
    [
        (lambda a: a.to("meta"), "on meta"),
        (lambda a: a.to_sparse(), "sparse_coo tensor on cpu"),
        (lambda a: a.to_mkldnn(), "_mkldnn tensor on cpu"),
    ],
    ids=["meta", "sparse", "mkldnn"],
)
def test_what_is_not_dense_memory_is_refused(odd: Any, text: str, which: str) -> None:
    """Also when such a call with dense tensors is remembered already."""
    names = {"x": tensor(1, 3, 6, 6), "weight": tensor(4, 3, 3, 3), "bias": tensor(4)}
    konv.conv2d(**names)
    names[which] = odd(names[which])
    with pytest.raises(konv.UnsupportedError, match=f"{which} is a .*{text}.*Use {which}"):
        konv.conv2d(**names)


@pytest.mark.parametrize(
    ("dtype", "text"),
    [(torch.int32, "int32"), (torch.uint16, "uint16"),
     (torch.complex64, "complex64"), (torch.bool, "bool")],
    ids=str,
)  # fmt: skip
def test_other_dtypes_are_refused(dtype: torch.dtype, text: str) -> None:
    x, w = torch.ones(1, 3, 6, 6, dtype=dtype), torch.ones(4, 3, 3, 3, dtype=dtype)
    with pytest.raises(konv.UnsupportedError, match=f"x is {text}; konv takes float32"):
        konv.conv2d(x, w)


def test_libraries_are_not_mixed() -> None:
    x, w, b = tensor(1, 3, 6, 6), tensor(4, 3, 3, 3), tensor(4)
    for arrays in ((x, w.numpy()), (x.numpy(), w), (x, w, b.numpy()), (x.numpy(), w.numpy(), b)):
        with pytest.raises(TypeError, match="Use arrays of one library"):
            konv.conv2d(*arrays)
    with pytest.raises(TypeError, match="out is a"):
        konv.conv2d(x, w, out=np.zeros((1, 4, 4, 4), "float32"))
    with pytest.raises(TypeError, match="out is a"):
        konv.conv2d(x.numpy(), w.numpy(), out=torch.zeros(1, 4, 4, 4))


def _prepared(x: torch.Tensor, w: torch.Tensor, **more: Any) -> Any:
    return konv.prepare(Conv.of((1, 3, 6, 6), 4, 3), w, more.pop("bias", None))(x, **more)


def _without_storage(a: torch.Tensor) -> torch.Tensor:
    a.untyped_storage().resize_(0)
    return a


def _parameter(a: torch.Tensor) -> torch.Tensor:
    return a.clone().requires_grad_()


@pytest.mark.parametrize(
    "call",
    [
        lambda x, w, b: konv.conv2d(x, w, b, out=torch.empty(1, 4, 4, 4, device="meta")),
        lambda x, w, b: konv.conv2d(x, w, b, out=torch.empty(1, 4, 4, 4).to_sparse()),
        lambda x, w, _: _prepared(x, w, out=torch.empty(1, 4, 4, 4, device="meta")),
        lambda x, w, b: _prepared(x, w, bias=b.to("meta")),
        lambda x, w, b: konv.conv2d(_without_storage(x), w, b),
        lambda x, w, b: konv.conv2d(x, w, _without_storage(b)),
        lambda x, w, b: konv.conv2d(x, _parameter(w), _without_storage(b)),
        lambda x, w, b: _prepared(x, _without_storage(w), bias=b),
        lambda x, w, b: _prepared(x, w, bias=_without_storage(b)),
        lambda x, w, _: _prepared(_without_storage(x), w),
        lambda x, w, b: konv.conv2d(x, w, b, out=_without_storage(torch.empty(1, 4, 4, 4))),
        lambda x, w, b: konv.conv2d(
            x, w, b, out=_without_storage(torch.empty(1, 4, 4, 8)[..., ::2])
        ),
        lambda x, w, _: _prepared(x, w, out=_without_storage(torch.empty(1, 4, 4, 4))),
        lambda x, w, _: _prepared(x, w, out=_without_storage(torch.empty(1, 4, 4, 8)[..., ::2])),
        lambda x, w, _: _prepared(x, w, residual=_without_storage(torch.empty(1, 4, 4, 4))),
        lambda x, w, b: konv.conv2d(
            x, w, b, residual=_without_storage(torch.empty(1, 4, 4, 8)[..., ::2])
        ),
    ],
    ids=[
        "meta out",
        "sparse out",
        "meta out, prepared",
        "meta bias, prepared",
        "no storage",
        "no storage, bias",
        "no storage, bias beside a gradient",
        "no storage, prepared weight",
        "no storage, prepared bias",
        "no storage, prepared",
        "no storage, out",
        "no storage, out in steps",
        "no storage, prepared, out",
        "no storage, prepared, out in steps",
        "no storage, prepared, residual",
        "no storage, residual in steps",
    ],
)
def test_memory_that_is_not_there_is_refused(call: Callable[..., Any]) -> None:
    """An error with a way out, not a crash: played in a child, after a call that is right."""
    x, w, b = tensor(1, 3, 6, 6), tensor(4, 3, 3, 3), tensor(4)
    konv.conv2d(x, w, b, out=torch.empty(1, 4, 4, 4))
    konv.conv2d(x, w)
    _prepared(x, w, out=torch.empty(1, 4, 4, 4))
    with warnings.catch_warnings(action="ignore"):  # Python 3.12 warns of forks beside threads
        child = os.fork()
    if not child:
        try:
            faulthandler.disable()
            call(x, w, b)
        except konv.KonvError:
            os._exit(7)
        except BaseException:  # noqa: BLE001 - or pytest would go on in the child
            os._exit(8)
        os._exit(9)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    meaning = {-11: "it crashed", 8: "an error that is not konv's", 9: "it was accepted"}
    assert status == 7, meaning.get(status, status)


@pytest.mark.parametrize("which", ["x", "weight", "bias", "out", "prepared"])
@pytest.mark.parametrize("first", [False, True])
def test_the_negative_bit_is_seen(which: str, first: bool) -> None:
    """`z.conj().imag` lies negated in memory, with strides as any other tensor's.

    `first`: no call with such shapes and strides was made before.
    """
    size = 9 + 2 * ["x", "weight", "bias", "out", "prepared"].index(which) + first
    x, w, b = tensor(1, 3, size, 5), tensor(4, 3, 3, 3), tensor(4)
    out = torch.empty(1, 4, size - 2, 3)
    conv = Conv.of(tuple(x.shape), 4, 3)
    layer = konv.prepare(conv, w, b)
    if not first:
        konv.conv2d(x, w, b, out=out)
        konv.conv2d(x, w, b)
        layer(x)
        layer(x, out)
    negated = torch._neg_view(-{"prepared": x, "out": out, "x": x, "weight": w, "bias": b}[which])
    assert negated.is_neg()
    if which == "out":
        got = konv.conv2d(x, w, b, out=negated)
    elif which == "prepared":
        got = layer(negated)
    else:
        got = konv.conv2d(**({"x": x, "weight": w, "bias": b} | {which: negated}))
    near(got.resolve_neg(), conv, x, w, b)


# --- DLPack -------------------------------------------------------------------------------------


class Other:
    """An array of another library: no shape, no dtype, only DLPack."""

    def __init__(self, a: Array) -> None:
        self.a = a

    def __dlpack__(self, **how: Any) -> Any:
        return self.a.__dlpack__(**how)

    def __dlpack_device__(self) -> Any:
        return self.a.__dlpack_device__()

    @classmethod
    def from_dlpack(cls, a: Any) -> Other:
        return cls(np.from_dlpack(a))


class Silent(Other):
    """The same without a way back of its own: what comes is a NumPy array."""

    from_dlpack = None  # type: ignore[assignment]


class Elsewhere(Other):
    """On a GPU."""

    def __dlpack_device__(self) -> Any:
        return (2, 0)

    def __dlpack__(self, **how: Any) -> Any:
        raise BufferError("not on the CPU")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dlpack(dtype: str, bias: bool) -> None:
    """The result is of the kind that was given."""
    x, w, b = (tensor(*s).numpy().astype(dtype) for s in ((2, 3, 6, 6), (4, 3, 3, 3), (4,)))
    given = [x, w, b if bias else None]
    y = konv.conv2d(*(None if a is None else Other(a) for a in given), padding=1)
    assert type(y) is Other
    assert np.array_equal(y.a, konv.conv2d(*given, padding=1))
    silent = konv.conv2d(*(None if a is None else Silent(a) for a in given), padding=1)
    assert np.array_equal(silent, y.a)


def test_dlpack_refusals() -> None:
    x, w = np.ones((1, 3, 6, 6), "float32"), np.ones((4, 3, 3, 3), "float32")
    with pytest.raises(TypeError, match="Use arrays of one library"):
        konv.conv2d(x, Other(w))
    with pytest.raises(TypeError, match=r"x is a list.*numpy\.asarray"):
        konv.conv2d(x.tolist(), w)
    with pytest.raises(TypeError, match="out works with"):
        konv.conv2d(Other(x), Other(w), out=np.empty((1, 4, 4, 4), "float32"))
    with pytest.raises(konv.UnsupportedError):
        konv.conv2d(Elsewhere(x), Elsewhere(w))


# --- Numbers that are special -------------------------------------------------------------------


def fastest(call: Callable[[], Any], times: int = 7) -> float:
    best = np.inf
    for _ in range(times):
        begin = perf_counter()
        call()
        best = min(best, perf_counter() - begin)
    return float(best)


def denormals_live() -> bool:
    """Whether this thread computes with denormals, in NumPy and in C."""
    tiny = np.full(64, np.finfo(np.float32).smallest_subnormal)
    half = ctypes.c_double(5e-324).value * 3
    return bool((tiny * np.float32(2) > 0).all()) and half > 0


@pytest.mark.parametrize(
    ("line", "last"),
    [("conv2d 1x32x24x24 o32 k3 p1", False), ("conv2d 1x32x24x24 o32 k3 p1", True),
     ("conv2d 1x128x28x28 o128 k3 p1 g128", False), ("tconv2d 1x32x12x12 o32 k4 s2 p1", False),
     ("conv2d 1x16x24x24 o16 k3 p1 f64", False)],
)  # fmt: skip
@pytest.mark.parametrize("which", ["x", "weight", "both"])
def test_denormals_cost_nothing(line: str, last: bool, which: str) -> None:
    """At most three times as long as ordinary numbers; afterwards the caller still has them."""
    conv = Conv.parse(line)
    tiny = float(np.finfo(conv.dtype).smallest_normal) / 64
    dtype = getattr(torch, conv.dtype)
    x, w = tensor(*conv.in_shape, dtype=dtype), tensor(*conv.weight_shape, dtype=dtype, seed=1)
    x = x.to(memory_format=LAST[2]) if last else x
    call = konv.conv_transpose2d if conv.transposed else konv.conv2d
    axis = conv.axes[0]
    padding = 1 if axis.kernel > 1 else 0
    options = {"padding": padding, "groups": conv.groups, "stride": 2 if conv.transposed else 1}
    small_x, small_w = x * tiny if which != "weight" else x, w * tiny if which != "x" else w
    assert call(x, w, **options).shape == conv.out_shape
    normal = slow = np.inf
    for _ in range(4):
        normal = min(normal, fastest(lambda: call(x, w, **options)))
        slow = min(slow, fastest(lambda: call(small_x, small_w, **options)))
        if slow <= 2 * normal:
            break
    assert slow <= 3 * normal, f"{slow * 1e6:.0f} us with denormals, {normal * 1e6:.0f} us without"
    assert denormals_live()
    assert (torch.full((64,), 1e-44) * 2 > 0).all()


def fields(mask: torch.Tensor, dims: int, transposed: bool, taps: Any, **options: Any) -> Array:
    """Where outputs read a marked input: a convolution of marks with ones."""
    found = function(dims, transposed, F)(mask.double(), taps, **options).numpy() > 0.5
    assert 0 < found.sum() < found.size
    return np.asarray(found)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("shape", "weight", "options"),
    [((2, 5, 13, 17), (35, 5, 3, 3), {"padding": 1}),
     ((2, 5, 13, 17), (35, 5, 3, 3), {"padding": 2, "stride": 2, "dilation": 2}),
     ((2, 6, 13, 17), (40, 3, 3, 2), {"padding": 1, "groups": 2}),
     ((2, 35, 13, 17), (35, 1, 3, 3), {"padding": 1, "groups": 35}),
     ((2, 70, 9, 7), (33, 70, 1, 1), {}),
     ((2, 5, 13, 17), (5, 35, 4, 4), {"padding": 1, "stride": 2, "transposed": True}),
     ((2, 35, 9, 9), (35, 1, 4, 4), {"padding": 1, "stride": 2, "groups": 35, "transposed": True})],
    ids=["plain", "dilated", "grouped", "depthwise", "pointwise", "transposed",
         "transposed depthwise"],
)  # fmt: skip
def test_nan_goes_where_its_receptive_field_says(
    shape: Any, weight: Any, options: Any, last: bool, value: float
) -> None:
    """And nowhere else; a weight of 0 stops it no more than any other."""
    options = dict(options)
    transposed = options.pop("transposed", False)
    x, w = tensor(*shape).abs(), tensor(*weight, seed=1).abs()
    x = x.to(memory_format=LAST[2]) if last else x
    spots = [(0, 1, 4, 5), (0, shape[1] - 1, 0, 0), (1, 2, shape[2] - 1, shape[3] - 1)]
    mask = torch.zeros(shape)
    for spot in spots:
        x[spot], mask[spot] = value, 1
    if value is torch.nan:
        w[:, :, 0, -1] = 0
    taps = torch.ones(weight).double()
    expected = fields(mask, 2, transposed, taps, **options)
    for dtype in DTYPES[: 1 + last]:
        y = function(2, transposed)(x.to(dtype), w.to(dtype), **options)
        odd = torch.isnan(y) if value is torch.nan else torch.isinf(y)
        assert np.array_equal(odd.numpy(), expected)
        assert torch.isfinite(y).numpy().sum() == expected.size - expected.sum()


def test_nan_in_a_weight_stays_in_its_channel() -> None:
    for groups, ci in ((1, 5), (35, 35)):
        x, w, b = tensor(1, ci, 9, 11), tensor(35, ci // groups, 3, 3, seed=1), tensor(35)
        w[17, 0, 1, 1] = torch.nan
        b[3] = torch.nan
        y = torch.isnan(konv.conv2d(x, w, b, groups=groups))
        assert y[:, [3, 17]].all()
        assert y.sum() == 2 * y[:, 0].numel()


# --- out= ---------------------------------------------------------------------------------------


def places() -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors to write into, of 2 x 4 x 4 x 4, each within or without memory of others."""
    yield "contiguous", torch.empty(2, 4, 4, 4)
    yield "channels last", torch.empty(2, 4, 4, 4).to(memory_format=LAST[2])
    yield "a part", torch.empty(3, 6, 5, 6)[1:, 1:5, :4, 1:5]
    yield "steps", torch.empty(2, 8, 8, 4)[:, ::2, ::2]
    yield "turned", torch.empty(4, 4, 2, 4).permute(2, 0, 3, 1)


@pytest.mark.parametrize("form", [name for name, _ in places()])
@pytest.mark.parametrize("last", [False, True])
def test_out_takes_the_result_as_it_lies(form: str, last: bool) -> None:
    """Any strides; `out` itself comes back, and nothing around it is written to."""
    x, w, b = tensor(2, 3, 6, 6), tensor(4, 3, 3, 3, seed=1), tensor(4)
    x = x.to(memory_format=LAST[2]) if last else x
    out = dict(places())[form]
    whole = out if out._base is None else out._base
    whole.fill_(7)
    strides, address = out.stride(), out.data_ptr()
    assert konv.conv2d(x, w, b, out=out) is out
    assert (out.stride(), out.data_ptr()) == (strides, address)
    near(out, Conv.of((2, 3, 6, 6), 4, 3), x, w, b)
    assert (whole == 7).sum() == whole.numel() - out.numel()


def test_out_may_be_the_input_or_the_weight() -> None:
    """What is read is read before it is overwritten."""
    x, w = tensor(4, 4, 3, 3), tensor(4, 4, 3, 3, seed=1)
    expected = konv.conv2d(x, w, padding=1)
    assert torch.equal(konv.conv2d(x.clone(), w, padding=1, out=(a := x.clone())), expected)
    for overwritten in (0, 1):
        arrays = [x.clone(), w.clone()]
        out = arrays[overwritten]
        assert konv.conv2d(*arrays, padding=1, out=out) is out
        assert torch.equal(out, expected)
    assert torch.equal(a, expected)
    memory = torch.empty(4 * 4 * 3 * 3 + 1)
    beside, place = memory[:-1].view(4, 4, 3, 3), memory[1:].view(4, 4, 3, 3)
    beside.copy_(x)
    assert torch.equal(konv.conv2d(beside, w, padding=1, out=place), expected)
    memory = torch.empty(4 + 4 * 4 * 3 * 3)
    bias, place = memory[:4], memory[2:-2].view(4, 4, 3, 3)
    bias.copy_(tensor(4))
    expected = konv.conv2d(x, w, bias.clone(), padding=1)
    assert torch.equal(konv.conv2d(x, w, bias, padding=1, out=place), expected)


@pytest.mark.parametrize(
    "out",
    [torch.empty(2, 4, 4, 5), torch.empty(4, 4, 4), torch.empty(2, 4, 4, 4, dtype=torch.float64)],
    ids=["shape", "batch", "dtype"],
)
def test_an_out_that_does_not_fit_is_refused(out: torch.Tensor) -> None:
    """And left as it was."""
    x, w = tensor(2, 3, 6, 6), tensor(4, 3, 3, 3)
    out.fill_(7)
    with pytest.raises(konv.ProblemError, match=r"out is .*the result of conv2d is float32"):
        konv.conv2d(x, w, out=out)
    assert (out == 7).all()
    read_only = np.zeros((2, 4, 4, 4), "float32")
    read_only.flags.writeable = False
    with pytest.raises(konv.ProblemError, match="read-only"):
        konv.conv2d(x.numpy(), w.numpy(), out=read_only)
    assert not read_only.any()
