"""Whatever happens to a process, a call gives the right numbers or raises, and the next is right.

`play(name, kind)` is the program of a child: forks, signals and imports leave traces. Kinds: `own`
(konv's threads) and `torch` (PyTorch imported, and its threads used).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import konv
from konv import arrays, dispatch, llvm, reference
from konv.geometry import Conv
from konv.kernels import panels
from konv.runtime import code, memory, threads, weights

Array = np.ndarray[Any, Any]
TESTS = Path(__file__).resolve().parents[1]
MB = 1024 * 1024
LINES = (  # every algorithm, both directions, both dtypes; some large enough for several threads
    "conv2d 1x3x31x33 o16 k3 p1",
    "conv2d 2x8x20x21 o24 k3 s2 p1",
    "conv2d 1x64x15x14 o64 k3 p1 g64",
    "conv2d 1x48x11x12 o40 k1",
    "tconv2d 1x8x12x11 o16 k4 s2 p1",
    "conv2d 1x4x14x13 o12 k3 p2 d2 f64",
    "conv1d 2x6x200 o16 k9 p4",
    "conv3d 1x3x7x8x9 o16 k3 p1",
)


# --- One layer, its numbers and what is right ---------------------------------------------------


class Layer:
    """A problem with numbers in whole steps, so that every right result is exactly right."""

    def __init__(self, line: str, seed: int = 0, kind: str = "own") -> None:
        self.conv, rng = Conv.parse(line), np.random.default_rng(seed)
        shapes = self.conv.in_shape, self.conv.weight_shape, (self.conv.co,)
        self.numbers = [rng.integers(-4, 5, shape).astype(self.conv.dtype) for shape in shapes]
        self.expected = reference.im2col(self.conv, *self.numbers)
        self.arrays: list[Any] = self.numbers
        if kind == "torch":
            import torch

            self.arrays = [torch.from_numpy(a) for a in self.numbers]
        conv, axes = self.conv, self.conv.axes
        self.options: dict[str, Any] = {
            "stride": axes[0].up if conv.transposed else axes[0].stride,
            "dilation": axes[0].dilation,
            "groups": conv.groups,
            "padding": axes[0].kernel - 1 - axes[0].lo if conv.transposed else axes[0].lo,
        }
        name = f"conv{'_transpose' * conv.transposed}{conv.dims}d"
        self.call: Callable[..., Any] = getattr(konv, name)

    def __call__(self) -> Any:
        return self.call(*self.arrays, **self.options)

    def right(self) -> bool:
        return bool(np.array_equal(np.asarray(self()), self.expected))


def layers(kind: str = "own", seed: int = 0) -> list[Layer]:
    return [Layer(line, seed, kind) for line in LINES]


# --- Children -----------------------------------------------------------------------------------


def play(name: str, kind: str) -> None:
    if kind == "torch":
        __import__("torch")
    globals()[name](kind)
    assert ("torch" in sys.modules) is (kind == "torch" or name.startswith("torch_"))
    sys.stdout.write("done\n")


def child(name: str, kind: str = "own", **environment: str) -> subprocess.Popen[str]:
    program = f"from functional.test_faults import play; play({name!r}, {kind!r})"
    path = os.pathsep.join((str(TESTS.parent / "src"), str(TESTS)))
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program],
        env=os.environ | {"PYTHONPATH": path} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def well(process: subprocess.Popen[str], timeout: float = 60) -> None:
    """The child comes to its end in time."""
    __tracebackhide__ = True
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"still running after {timeout} s\n{out}{err}")
    assert process.returncode == 0, f"{process.returncode}\n{out}{err[-2000:]}"
    assert out.endswith("done\n")
    assert not err, err


def forked(work: Callable[[], bool], seconds: float) -> str:
    """What becomes of a forked child that does this work."""
    child = os.fork()
    if not child:
        try:
            os._exit(0 if work() else 7)
        except BaseException:  # noqa: BLE001 - or the child would go on with the parent's work
            os._exit(8)
    killer = threading.Timer(seconds, os.kill, (child, signal.SIGKILL))
    killer.start()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    killer.cancel()
    killer.join()
    words = {0: "right", 7: "wrong", 8: "raised", -9: f"hung for {seconds} s", -11: "crashed"}
    return words.get(status, str(status))


def many_right(number: int, mine: list[Layer], times: int) -> int:
    return sum(mine[(number + i) % len(mine)].right() for i in range(times))


# --- Forks --------------------------------------------------------------------------------------


def fork_after_use(kind: str) -> None:
    """Also with new layers, new plans, and several times over; the parent computes on."""
    mine, new = layers(kind), Layer("conv2d 1x5x9x10 o13 k5x3 p2", kind=kind)
    assert all(layer.right() for layer in mine)
    for _ in range(3):
        assert forked(lambda: all(layer.right() for layer in [*mine, new]), 10) == "right"
        assert all(layer.right() for layer in mine)
    grandchild = lambda: forked(lambda: mine[0].right(), 5) == "right"  # noqa: E731
    assert forked(grandchild, 10) == "right"


def fork_while_others_call(kind: str) -> None:
    mine, stop = layers(kind), threading.Event()

    def busy(number: int) -> None:
        while not stop.is_set():
            assert many_right(number, mine, 4) == 4
            dispatch._layers.clear()
            weights.CACHE.clear()

    assert all(layer.right() for layer in mine)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(busy, number) for number in range(4)]
        found = [forked(lambda: all(layer.right() for layer in mine), 5) for _ in range(6)]
        stop.set()
        for call in calls:
            call.result()
    assert set(found) == {"right"}, found


def fork_while_another_compiles(kind: str) -> None:
    """The child finds the compiler free: it needs a kernel of its own."""
    mine, inside = layers(kind), threading.Event()
    other, new = Layer("conv2d 1x7x9x10 o21 k5", kind=kind), Layer("conv2d 1x6x9x9 o9 k3 f64")
    assert mine[0].right()
    emit = code.llvm.object_bytes

    def slow(*arguments: Any) -> bytes:
        inside.set()
        time.sleep(0.5)
        return emit(*arguments)

    os.environ["KONV_CACHE_DIR"] = ""
    code.llvm.object_bytes = slow
    compiling = threading.Thread(target=other.right)
    compiling.start()
    assert inside.wait(5)
    found = forked(new.right, 5)
    compiling.join()
    code.llvm.object_bytes = emit
    assert found == "right", found
    assert new.right()
    assert other.right()


def fork_while_a_lock_is_held(kind: str) -> None:
    """Another thread may be anywhere at the moment of a fork, in each of konv's locks too."""
    layer, new = Layer(LINES[0], kind=kind), Layer("conv2d 1x6x9x9 o9 k3 f64", kind=kind)
    assert layer.right()
    found = {}
    for name, lock in (
        ("threads", threads._lock), ("code", code._lock), ("weights", weights.CACHE.lock)
    ):  # fmt: skip
        held, free = threading.Event(), threading.Event()

        def holds(lock: Any = lock, held: Any = held, free: Any = free) -> None:
            with lock:
                held.set()
                free.wait()

        holder = threading.Thread(target=holds)
        holder.start()
        held.wait()
        threading.Timer(1, free.set).start()  # a fork may wait for the lock, but not for ever
        found[name] = forked(lambda: layer.right() and new.right(), 5)
        free.set()
        holder.join()
    assert set(found.values()) == {"right"}, found


BOTH = pytest.mark.parametrize("kind", ["own", "torch"])


@BOTH
@pytest.mark.parametrize("name", ["fork_after_use", "fork_while_others_call"])
def test_a_forked_child_computes(name: str, kind: str) -> None:
    well(child(name, kind))


@pytest.mark.parametrize("name", ["fork_while_another_compiles", "fork_while_a_lock_is_held"])
def test_a_forked_child_finds_no_lock_held(name: str) -> None:
    well(child(name))


# --- Threads ------------------------------------------------------------------------------------


def callers(kind: str) -> None:
    """8 threads x 200 calls of different layers, the first calls too; some arrays are shared."""
    shared = layers(kind)
    start = threading.Barrier(8)

    def caller(number: int) -> int:
        own = [Layer(f"conv2d 1x{3 + number}x{9 + number}x{20 - number} o{8 + number} k3 p1",
                     number, kind)]  # fmt: skip
        start.wait()
        return many_right(number, shared + own, 200)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(caller, range(8))) == [200] * 8
    assert all(layer.right() for layer in shared)


def callers_and_settings(kind: str) -> None:
    """While others change the number of threads, forget layers and change a weight."""
    shared = layers(kind)

    def caller(number: int) -> int:
        own = [Layer("conv2d 1x6x16x17 o20 k3 p1", number, kind), *shared]
        right = 0
        for i in range(100):
            if number == 0:
                konv.set_num_threads(1 + i % 4)
            if number == 1:
                dispatch._layers.clear()
                memory.release()
            for a in own[0].arrays[1:]:
                a *= -1
            own[0].expected *= -1
            right += own[0].right() and own[1 + i % len(shared)].right()
        return right

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(caller, range(8))) == [100] * 8


@pytest.mark.parametrize(
    ("name", "kind"), [("callers", "own"), ("callers", "torch"), ("callers_and_settings", "own")]
)
def test_many_threads_call_at_once(name: str, kind: str) -> None:
    well(child(name, kind))


# --- Signals ------------------------------------------------------------------------------------


def interrupt(kind: str) -> None:
    """Ctrl-C in a long call arrives when the kernel returns; the next call is right."""
    small = layers(kind)
    assert all(layer.right() for layer in small)
    konv.precision("exact")  # the corner below has other tiles
    konv.set_num_threads(2)  # or it would not be long on a large machine
    n, rng = 160, np.random.default_rng(0)
    x, w = rng.random((1, 128, n, n), "float32"), rng.random((256, 128, 5, 5), "float32")
    given: list[Any] = [x, w]
    if kind == "torch":
        import torch

        given = [torch.from_numpy(a) for a in given]
    out = np.zeros((1, 256, n - 4, n - 4), "float32")
    place = out if kind == "own" else torch.from_numpy(out)
    konv.conv2d(*given, out=place)  # compiled, packed and remembered: the next one begins at once
    out.fill(0)
    sent: list[float] = []

    def send() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.02, send)
    timer.start()
    try:
        konv.conv2d(*given, out=place)
        raise AssertionError("no interrupt")
    except KeyboardInterrupt:
        late = time.monotonic() - sent[0]
    timer.join()
    assert late < 30, late
    assert out.all(), "the kernel did not finish"
    corner = konv.conv2d(x[:, :, -9:, -9:], w)
    assert np.array_equal(out[:, :, -5:, -5:], corner)
    assert all(layer.right() for layer in small)
    assert memory.waiting() <= memory.KEEP


@BOTH
def test_ctrl_c_arrives_when_the_kernel_returns(kind: str) -> None:
    well(child("interrupt", kind))


# --- Memory -------------------------------------------------------------------------------------


class Refused:
    """NumPy, but `empty` has no memory."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, *_: Any) -> Any:
        raise MemoryError("no memory")


@pytest.mark.parametrize("part", ["scratch", "result", "packed weights"])
@pytest.mark.parametrize("out", [False, True])
@pytest.mark.parametrize("line", LINES[:6])
def test_refused_memory_is_an_error(
    part: str, out: bool, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a first call and at a later one; nothing is written, and the next call is right."""
    for first in (True, False):
        dispatch._layers.clear()
        layer = Layer(line)
        place = np.full(layer.conv.out_shape, 7, layer.conv.dtype)
        before = [a.copy() for a in layer.numbers]
        assert first or layer.right()
        memory.release()
        weights.CACHE.clear()
        with monkeypatch.context() as patch:
            if part == "result":
                patch.setattr(arrays.NumpyKind, "empty", Refused().empty)
            else:
                patch.setattr({"scratch": memory}.get(part, weights), "np", Refused())
            lies = panels.why_not(layer.conv, llvm.detect()) is None  # read so, not packed
            none = part == "packed weights" and lies
            if none or (part == "result" and out):
                y = layer.call(*layer.arrays, **layer.options, **({"out": place} if out else {}))
                assert out == (y is place)
            else:
                with pytest.raises(MemoryError) as caught:
                    layer.call(*layer.arrays, **layer.options, **({"out": place} if out else {}))
                assert isinstance(caught.value, konv.OutOfMemoryError) or part != "scratch"
                assert (place == 7).all()
        assert all(np.array_equal(a, b) for a, b in zip(before, layer.numbers, strict=True))
        assert layer.right()


def limited(kind: str) -> None:
    """The system itself refuses: a result that does not fit into what the process may have."""
    small = layers(kind)
    assert all(layer.right() for layer in small)
    w: Any = np.ones((64, 1, 3, 3), "float32")
    x: Any = np.ones((1, 1, 2048, 2048), "float32")
    if kind == "torch":
        import torch

        x, w = torch.from_numpy(x), torch.from_numpy(w)
    konv.conv2d(x[:, :, :64, :64], w)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 200 * MB
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for _ in range(2):
        try:
            konv.conv2d(x, w)  # a GB
            raise AssertionError("it was not refused")
        except MemoryError:
            pass
        assert all(layer.right() for layer in small)


@BOTH
def test_the_system_refuses_memory(kind: str) -> None:
    """MemoryError, for arrays and for tensors (PyTorch alone would say RuntimeError)."""
    well(child("limited", kind))


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def leak(kind: str) -> None:
    """10,000 calls, nearly all of another shape than the last 512; fewer of tensors, on one thread:
    OpenMP's wait for each other, for milliseconds, where others use the cores too.
    """
    calls = {"own": 10_000, "torch": 2_500}[kind]
    rng, dice = np.random.default_rng(0), Random(0)
    pixels = rng.random(1 * 4 * 64 * 64, "float32")
    kernels = [rng.random((o, 4, 3, 3), "float32") for o in (8, 20)]
    spread = rng.random((4, 8, 4, 4), "float32")
    biases = [None, rng.random(8, "float32"), rng.random(20, "float32")]
    if kind == "torch":
        import torch

        konv.set_num_threads(1)
        pixels, spread = torch.from_numpy(pixels), torch.from_numpy(spread)
        kernels = [torch.from_numpy(k) for k in kernels]
        biases = [None if b is None else torch.from_numpy(b) for b in biases]
    measured = []
    for i in range(calls):
        n, h, w = dice.randint(1, 2), dice.randint(3, 32), dice.randint(3, 32)
        x = pixels[: n * 4 * h * w].reshape(n, 4, h, w)
        if i % 7 == 0:
            konv.conv_transpose2d(x, spread, stride=2, padding=1)
        else:
            konv.conv2d(x, kernels[i % 2], biases[(i % 3 > 0) * (1 + i % 2)], padding=i % 3)
        if i % (calls // 20) == 0:
            measured.append(rss() / MB)
    assert len(dispatch._layers) <= dispatch.REMEMBERED
    assert memory.waiting() <= memory.KEEP
    early, late = max(measured[4:9]), max(measured[-5:])
    assert late - early < 4, [round(m, 1) for m in measured]


@BOTH
def test_nothing_leaks(kind: str) -> None:
    """Less than 4 MB more after all calls than after a third: 700 bytes a call would be seen."""
    well(child("leak", kind))


def leak_layers(kind: str) -> None:
    """3,600 calls of konv.nn.Conv2d, forward and backward, every other one of a new shape; now and
    then a layer is new too. In each third more layers are remembered than konv keeps.
    """
    import torch
    from functional.held import held

    import konv.nn
    from konv import gradient

    assert kind == "torch"
    konv.set_num_threads(1)
    torch.manual_seed(0)
    # No image of one pixel: its rare kernels, compiled in mid-course, would take 20 MB.
    third, dice, counted = 1200, Random(0), []
    pixels, layers = torch.rand(2 * 4 * 64 * 64), [konv.nn.Conv2d(4, 8, 3) for _ in range(8)]
    for i in range(3 * third):
        if i % 2 == 0:
            n, h, w = dice.randint(1, 2), dice.randint(5, 64), dice.randint(5, 64)
            x = pixels[: n * 4 * h * w].view(n, 4, h, w).requires_grad_(i % 4 == 0)
        if i % 100 == 0:
            layers[i // 100 % 8] = konv.nn.Conv2d(4, 8, 3, bias=i % 200 == 0)
        layers[i % 8](x).square().sum().backward()
        x = x.detach()
        if (i + 1) % third == 0:
            assert len(dispatch._layers) <= dispatch.REMEMBERED
            assert len(gradient._layers) <= gradient.REMEMBERED
            assert memory.waiting() <= memory.KEEP
            counted.append((*held(), rss()))
    blocks, given, pages = (
        (late - early) / third for early, late in zip(counted[-2], counted[-1], strict=True)
    )
    assert blocks < 0.2, counted
    assert given < 24, counted
    assert pages < 4 * MB / third, counted
    # One small object a call would have been seen, of Python or of C.
    malloc, before = ctypes.CDLL(None).malloc, held()
    kept = [object() for _ in range(third)]
    for _ in range(third):
        malloc(32)
    after = held()
    assert len(kept) == third
    assert (after.blocks - before.blocks) / third > 0.9
    assert (after.given - before.given) / third > 31


@pytest.mark.slow
def test_layers_leak_nothing() -> None:
    """Over the last third of the calls, when all is warm, Python holds no block of memory more and
    the C library 24 bytes a call at most.
    """
    well(child("leak_layers", "torch"), timeout=120)


# --- PyTorch, and other processes ---------------------------------------------------------------


def never(kind: str) -> None:
    assert all(layer.right() for layer in layers(kind))


def torch_after(kind: str) -> None:
    """Imported between two calls, and by another thread during calls."""
    mine = layers("own")
    assert all(layer.right() for layer in mine)
    assert "torch" not in sys.modules
    importing = threading.Thread(target=__import__, args=("torch",))
    importing.start()
    while importing.is_alive():
        assert all(layer.right() for layer in mine)
    importing.join()
    assert all(layer.right() for layer in mine)
    assert all(layer.right() for layer in layers("torch", seed=1))
    assert konv.get_num_threads() == sys.modules["torch"].get_num_threads()


@pytest.mark.parametrize("name", ["never", "torch_after"])
def test_pytorch_is_imported_never_or_after_a_call(name: str) -> None:
    """Before the first call: that is what the other tests with PyTorch's threads begin with."""
    well(child(name))


def test_processes_share_a_cold_cache(tmp_path: Path) -> None:
    """Two at once, both right; what they leave behind is whole, and serves a third."""
    place = tmp_path / "cold"
    started = [child("never", KONV_CACHE_DIR=str(place)) for _ in range(2)]
    for process in started:
        well(process)
    files = sorted(place.iterdir())
    assert files
    assert {file.suffix for file in files} == {".konv"}
    environment = {"KONV_CACHE_DIR": str(place), "KONV_VERBOSE": "1"}
    third = child("never", **environment)
    _, err = third.communicate(timeout=60)
    assert third.returncode == 0
    assert "konv: load" in err
    assert "konv: compile" not in err
    assert sorted(place.iterdir()) == files
