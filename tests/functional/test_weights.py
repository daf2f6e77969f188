"""Weights change behind konv's back, in every way they can: the next result is right."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from functional.check import threads
from functional.forms import numbers

import konv
from konv import dispatch
from konv.errors import ProblemError
from konv.geometry import Conv
from konv.runtime import watch
from konv.runtime.code import digests
from konv.runtime.weights import CACHE

Array = np.ndarray[Any, Any]

# A weight smaller than a chunk of the digest, and one that threads share; ordinary, grouped, turned
# round, one filter a channel; double. All of them small integers, so that equal means equal.
LAYERS = [
    "conv2d 1x6x5x5 o20 k3 p1",
    "conv2d 1x64x3x3 o128 k3 p1",
    "conv2d 1x12x5x5 o18 k3 p1 g3",
    "conv2d 1x20x5x5 o20 k3 p1 g20",
    "conv2d 1x9x5x5 o11 k1 f64",
    "tconv2d 1x9x4x4 o17 k3 s2 p1",
    "tconv2d 1x17x4x4 o17 k3 s2 p1 g17",
]
every_layer = pytest.mark.parametrize("line", LAYERS)
both_formats = pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In exact mode: what is compared here are whole numbers. Large weights are watched from the
    first call on, where the system can do that.
    """
    monkeypatch.setattr(watch, "PATIENCE", 0)
    CACHE.clear()
    with konv.precision("exact"):
        yield
    CACHE.clear()


def arguments(conv: Conv) -> dict[str, Any]:
    """What LAYERS say, as konv and PyTorch alike take it."""
    axis = conv.axes[0]
    if conv.transposed:
        return {"stride": axis.up, "padding": axis.extent - 1 - axis.lo, "groups": conv.groups}
    return {"stride": axis.stride, "padding": axis.lo, "groups": conv.groups}


def mine(conv: Conv, x: Any, w: Any, b: Any) -> Any:
    function = konv.conv_transpose2d if conv.transposed else konv.conv2d
    return function(x, w, b, **arguments(conv))


def theirs(conv: Conv, x: Any, w: Any, b: Any) -> torch.Tensor:
    function = (
        torch.nn.functional.conv_transpose2d if conv.transposed else torch.nn.functional.conv2d
    )
    x, w, b = (None if a is None else torch.as_tensor(a).double() for a in (x, w, b))
    count = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads for such little work only wait for each other
    try:
        with torch.no_grad():
            return function(x, w, b, **arguments(conv))
    finally:
        torch.set_num_threads(count)


def drawn(line: str, seed: int = 0) -> tuple[Conv, Array, Array, Array]:
    conv, rng = Conv.parse(line), np.random.default_rng(seed)
    shapes = conv.in_shape, conv.weight_shape, (conv.co,)
    x, w, b = (rng.integers(-4, 5, shape).astype(conv.dtype) for shape in shapes)
    w[w == 0] = 1  # so that a change of sign changes something
    return conv, x, w, b


def right(conv: Conv, x: Any, w: Any, b: Any) -> Any:
    """The result is PyTorch's, and bit for bit that of a konv that has never seen a weight."""
    __tracebackhide__ = True
    with torch.no_grad():
        y = numbers(mine(conv, x, w, b))
        kept = dict(CACHE.entries)
        CACHE.clear()
        fresh = numbers(mine(conv, x, w, b))
    assert y.tobytes() == fresh.tobytes(), f"{conv}: a stale weight was used"
    assert np.array_equal(y, theirs(conv, x, w, b).numpy()), f"{conv}: not what PyTorch says"
    assert kept or lies(conv)
    return y


def lies(conv: Conv) -> bool:
    """Whether a layer was computed from its weight as it lies: nothing is packed then."""
    return any(layer.rows and layer.request.conv == conv for layer in dispatch._layers.values())


# Arrays, changed in place


def sign_of_all(w: Array) -> None:
    w *= -1


def sign_of_one(w: Array) -> None:
    w.reshape(-1)[w.size // 2] *= -1


def swap_elements(w: Array) -> None:
    flat = w.reshape(-1)
    at = next(i for i in range(1, flat.size) if flat[i] != flat[0])
    flat[[0, at]] = flat[[at, 0]]


def swap_rows(w: Array) -> None:
    w[[0, 1]] = w[[1, 0]]


def reverse(w: Array) -> None:
    w.reshape(-1)[:] = w.reshape(-1)[::-1].copy()


def double(w: Array) -> None:
    w *= 2


def last_number(w: Array) -> None:
    w.reshape(-1)[-1] += 1


def all_alike(w: Array) -> None:
    w[...] = 3


CHANGES = (
    sign_of_all, sign_of_one, swap_elements, swap_rows, reverse, double, last_number, all_alike,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: str(change.__name__))
@both_formats
@every_layer
def test_array_changed(line: str, last: bool, change: Callable[[Array], None]) -> None:
    """In place, at the same address, by one thread and two."""
    conv, x, w, b = drawn(line)
    base = np.ascontiguousarray(np.moveaxis(w, 1, -1)) if last else w
    w = np.moveaxis(base, -1, 1) if last else w
    for count in (1, 2):
        with threads(count):
            before = right(conv, x, w, b)
            assert np.array_equal(before, mine(conv, x, w, b))
            change(base)
            after = right(conv, x, w, b)
            assert not np.array_equal(before, after) or change in (reverse, all_alike)


@every_layer
def test_every_byte_counts(line: str) -> None:
    """The lowest bit of the first and the last number, and any bit of the last byte."""
    conv, x, w, b = drawn(line)
    raw = w.view(np.uint8).reshape(-1)
    for at, bit in ((0, 0), (w.nbytes - w.itemsize, 0), *((w.nbytes - 1, i) for i in range(8))):
        before = mine(conv, x, w, b)
        kept = list(CACHE.entries.values())
        raw[at] ^= 1 << bit
        y = mine(conv, x, w, b)
        packed = list(CACHE.entries.values())
        assert packed != kept or (lies(conv) and not packed), f"byte {at}, bit {bit}: not anew"
        CACHE.clear()
        assert y.tobytes() == mine(conv, x, w, b).tobytes()
        raw[at] ^= 1 << bit
        assert before.tobytes() == mine(conv, x, w, b).tobytes()


@every_layer
def test_bias_changed(line: str) -> None:
    """In place; as another array; left out and put back."""
    conv, x, w, b = drawn(line)
    before = right(conv, x, w, b)
    b[-1] += 1
    assert not np.array_equal(before, right(conv, x, w, b))
    for other in (-b, None, b, b.copy(), np.zeros_like(b)):
        right(conv, x, w, other)
    b *= -1
    right(conv, x, w, b)


@pytest.mark.parametrize("line", ["conv2d 1x1x3x3 o1 k1", "conv2d 1x40x3x3 o40 k1 g40"])
def test_weight_and_bias_change_together(line: str) -> None:
    """Equal bytes in both, then other equal bytes; and their contents exchanged."""
    conv, x, w, b = drawn(line)
    for value in (2, 3, -3):
        w[...], b[...] = value, value
        right(conv, x, w, b)
    w.reshape(-1)[:], b[:] = np.arange(conv.co) + 1, np.arange(conv.co) * 2 - 5
    right(conv, x, w, b)
    w.reshape(-1)[:], b[:] = b.copy(), w.reshape(-1).copy()
    right(conv, x, w, b)


def test_two_numbers_change() -> None:
    """Two of a filter of small integers at once, where one change could hide the other."""
    x = np.arange(1, 73, dtype="float32").reshape(1, 8, 3, 3)
    w = np.random.default_rng(0).choice([-1.0, 0.0, 1.0, 2.0], x.shape).astype("float32")
    flat, values = w.reshape(-1), (-1, 0, 1, 2)
    for p, new in product(range(0, 40, 3), product(values, repeat=2)):
        for old in product(values, repeat=2):
            for flat[p], flat[p + 17] in (old, new):  # in one step, as seen by konv
                assert konv.conv2d(x, w).item() == (x * w).sum(), (p, old, new)


def test_another_array_at_the_same_address() -> None:
    """A weight is freed, the next one is given its memory."""
    conv, x, _, _ = drawn(LAYERS[0])
    seen, again = set[int](), 0
    for value in range(50):
        w = np.full(conv.weight_shape, value - 25, conv.dtype)
        again += w.ctypes.data in seen
        seen.add(w.ctypes.data)
        assert np.array_equal(mine(conv, x, w, None), theirs(conv, x, w, None).numpy())
        del w
    assert again, "memory was never used again; the test shows nothing"


def test_one_memory_seen_as_several_weights() -> None:
    """The same bytes at the same address are other weights in another shape, group or format."""
    rng = np.random.default_rng(5)
    memory = rng.integers(-4, 5, 16 * 8 * 9).astype("float32")
    x = rng.integers(-4, 5, (1, 16, 6, 6)).astype("float32")
    lines = ("o16 k3 p1 g2", "o8 k3 p1", "o72 k1", "o16 k3 p1 g2")
    for line in lines:
        conv = Conv.parse(f"conv2d 1x16x6x6 {line}")
        assert conv.params == memory.size
        w = memory.reshape(conv.weight_shape)
        co, ci, *taps = conv.weight_shape
        for seen in (w, np.moveaxis(memory.reshape(co, *taps, ci), -1, 1)):
            y = mine(conv, x, seen, None)
            assert np.array_equal(y, theirs(conv, x, seen, None).numpy()), (line, seen.strides)
    turned = Conv.parse("tconv2d 1x16x6x6 o8 k3 p1")
    w = memory.reshape(turned.weight_shape)
    assert np.array_equal(mine(turned, x, w, None), theirs(turned, x, w, None).numpy())


# Tensors: five ways past PyTorch's own counters


def optimizer_step(layer: torch.nn.Module) -> None:
    optimizer = torch.optim.SGD(layer.parameters(), lr=1)
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def load_state_dict(layer: torch.nn.Module) -> None:
    layer.load_state_dict({name: a + 1 for name, a in layer.state_dict().items()})


def data(layer: torch.nn.Module) -> None:
    for parameter in layer.parameters():
        parameter.data.add_(1)


def numpy_view(layer: torch.nn.Module) -> None:
    for parameter in layer.parameters():
        parameter.detach().numpy()[...] += 1


def inference_copy(layer: torch.nn.Module) -> None:
    with torch.inference_mode():
        for parameter in layer.parameters():
            parameter.copy_(parameter + 1)


WAYS = (optimizer_step, load_state_dict, data, numpy_view, inference_copy)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: str(way.__name__))
@both_formats
@every_layer
def test_tensor_changed(line: str, last: bool, way: Callable[[torch.nn.Module], None]) -> None:
    conv, x, w, b = drawn(line)
    layer = torch.nn.Module()
    form = torch.channels_last if last else torch.contiguous_format
    for name, a in (("weight", w), ("bias", b)):
        tensor = torch.from_numpy(a).clone()
        tensor = tensor.to(memory_format=form) if a.ndim == 4 else tensor
        layer.register_parameter(name, torch.nn.Parameter(tensor))
    image, address = torch.from_numpy(x), layer.weight.data_ptr()
    before = right(conv, image, layer.weight, layer.bias)
    for _ in range(2):
        way(layer)
        after = right(conv, image, layer.weight, layer.bias)
        assert not np.array_equal(before, after)
        before = after
    assert layer.weight.data_ptr() == address, "the weight has moved; the test shows nothing"


def test_inference_tensor_changed() -> None:
    """A tensor made under inference mode has no version at all."""
    conv, x, w, _ = drawn(LAYERS[0])
    with torch.inference_mode():
        weight, image = torch.from_numpy(w).clone(), torch.from_numpy(x)
        for _ in range(3):
            y = mine(conv, image, weight, None)
            assert np.array_equal(y.numpy(), theirs(conv, x, weight, None).numpy())
            weight.neg_()
            weight[0, 0, 0, 0] += 5


# Prepared layers


@pytest.mark.parametrize("as_tensor", [False, True], ids=["array", "tensor"])
@both_formats
@every_layer
def test_prepared_keeps_its_own(line: str, last: bool, as_tensor: bool) -> None:
    """Results stay when the original changes, before and after the first call, in every layout."""
    conv, x, w, b = drawn(line)
    want = theirs(conv, x, w, b).numpy()
    base = np.ascontiguousarray(np.moveaxis(w, 1, -1)) if last else w
    seen: Any = np.moveaxis(base, -1, 1) if last else w
    bias: Any = b
    image: Any = x
    if as_tensor:
        seen, bias, image = torch.from_numpy(seen), torch.from_numpy(b), torch.from_numpy(x)
    layer = konv.prepare(conv, seen, bias)
    base[...], b[...] = np.nan, np.nan
    assert np.array_equal(layer(image), want)
    base[...], b[...] = 1, 1
    assert np.array_equal(layer(image), want)
    swapped = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    assert np.array_equal(layer(torch.from_numpy(swapped) if as_tensor else swapped), want)
    assert not CACHE.bytes, "a prepared layer keeps nothing in the cache of functional calls"


def test_prepared_refuses_out_after_it_took_one() -> None:
    """An `out` that differs in dtype or may not be written is refused, whatever came before it."""
    conv, x, w, b = drawn(LAYERS[0])
    layer = konv.prepare(conv, w, b)
    good = np.empty(conv.out_shape, conv.dtype)
    assert layer(x, good) is good
    locked = np.zeros(conv.out_shape, conv.dtype)
    locked.flags.writeable = False
    for out in (np.zeros(conv.out_shape, "float64"), np.zeros(conv.out_shape, "float16"), locked):
        with pytest.raises(ProblemError, match="out is float"):
            layer(x, out)
        assert not out.any()


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))]
)
@pytest.mark.parametrize("as_tensor", [False, True], ids=["array", "tensor"])
def test_prepared_can_be_copied(again: Callable[[Any], Any], as_tensor: bool) -> None:
    """Before and after calls; layout, plan and activation go with it, and the copy is its own."""
    conv, x, w, b = drawn(LAYERS[0])
    seen = [torch.from_numpy(a) if as_tensor else a for a in (x, w, b)]
    last = seen[0].permute(0, 2, 3, 1) if as_tensor else np.moveaxis(x, 1, -1)
    layer = konv.prepare(
        conv, *seen[1:], layout="NHWC", plan="direct", activation=("leaky_relu", 0.5)
    )
    early = again(layer)
    want = numbers(layer(last))
    for copied in (early, again(layer)):
        assert np.array_equal(numbers(copied(last)), want)
        assert copied.packed_bytes == layer.packed_bytes
    copied.weight[...] = 0
    assert np.array_equal(numbers(layer(last)), want)
    assert again(layer).conv == conv


# A fork while another thread is at it


def test_fork_while_the_cache_is_locked() -> None:
    """The child has inherited the lock, not the thread that would open it."""
    conv, x, w, b = drawn(LAYERS[0])
    want = mine(conv, x, w, b)
    digests()
    with CACHE.lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python 3.12: there are other threads
        child = os.fork()
        if not child:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(2)
            os._exit(int(not np.array_equal(mine(conv, x, w, b), want)))
    status = os.waitpid(child, 0)[1]
    assert status == 0, f"the child ended with {status}; {signal.SIGALRM:d} is a hang"


def test_who_is_interrupted_holds_nobody_up() -> None:
    """A signal handler, or what a dropped object calls, may compute in the middle of a call."""
    conv, x, w, b = drawn(LAYERS[0])
    want = mine(conv, x, w, b)
    with CACHE.lock:
        assert np.array_equal(mine(conv, x, w, b), want)
        w += 1
        changed = mine(conv, x, w, b)
    assert np.array_equal(mine(conv, x, w, b), changed)
    assert not np.array_equal(changed, want)
