"""The libraries that are installed here: their answers are right, and none meets another's threads.

Which ones are depends on the machine: an absent one is in no list, and none is needed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from bench.fakes import FakeClock

from konv import get_num_threads, llvm
from konv.bench import Settings, bench, read, text, timing
from konv.bench.answers import answers
from konv.bench.closing import NOT_TAKEN, closing
from konv.bench.peers import LAYOUTS, LIBRARIES, Peer, installed, name
from konv.bench.peers.jax import _canonical
from konv.bench.peers.peer import ChannelsLast
from konv.bench.working import draw
from konv.errors import ProblemError
from konv.geometry import Conv, read_problems
from konv.kernels import ALGORITHMS, by_name
from konv.plan import Algorithm
from konv.reference import im2col

SHAPES = Path(__file__).resolve().parents[2] / "problems/shapes.txt"
OWN = installed(("own",))[2:]
PEERS = [peer for peer in installed() if peer.library not in ("konv", "torch")]
# What is unlike in one library and another: padding, groups, transposed weights, dimensions.
AWKWARD = (
    "conv2d 1x4x7x9 o6 k3 s2 p1",
    "tconv2d 1x4x5x6 o6 k4x3 s2 p1x0 r0x1 g2",
)
MORE = (
    "conv2d 2x5x7x8 o6 k4x3 p3:0x2:0 d1x2",
    "conv2d 1x6x9x8 o12 k3 p1 g6",
    "conv2d 1x6x9x8 o10 k3 p2 d2 reflect",
    "tconv1d 1x6x13 o7 k5 s3 p2 r1",
    "conv3d 1x3x5x6x7 o4 k3x1x2 s2x1x1 p1x0x1",
    "tconv3d 1x6x3x4x3 o9 k3 s2 p1 r1 g3",
)
# Of konv's own algorithms, some take only these.
SPECIAL = (
    "conv2d 1x16x20x20 o32 k3 p1",
    "conv2d 1x16x20x20 o32 k5 p2",
    "conv2d 1x16x30x30 o16 k28 p14 g16",
    "conv2d 1x17x30x30 o17 k29 p14 g17",
    "conv1d 1x33x203 o35 k9 p4",
    "conv2d 1x3x40x41 o35 k9 p4",
    "tconv2d 1x5x6x7 o9 k4 s2 p1",
    "tconv2d 1x40x9x10 o3 k4 s2 p1",
    "conv2d 1x64x19x23 o1 k4 p1",
    "tconv2d 1x3x5x4 o2 k16 s8 p4",
    "tconv2d 1x16x10x11 o3 k8x32 s4x16",
    "tconv2d 1x17x10x11 o5 k16 s8 p4",
    "tconv2d 1x17x9x9 o17 k3 s2 p1 g17",
    "tconv2d 1x9x6x13 o9 k4x5 s1x3 p1 g9",
    "conv2d 1x17x9x9 o19 k1",
    "conv2d 2x24x9x9 o36 k1 g3",
    "conv2d 1x32x9x9 o32 k5 p2 g32",
    "conv2d 1x32x9x9 o32 k7 p3 g32",
    "conv2d 1x17x19x9 o17 k9x7 p4 g17",
    "conv2d 1x32x9x9 o32 k3 p1 g8",
    "conv2d 1x32x9x9 o32 k3 p1 g2",
)


@pytest.mark.filterwarnings("ignore")  # of other people's imports
@pytest.mark.parametrize("peer", PEERS, ids=name)
def test_every_installed_library_answers_right(peer: Peer) -> None:
    """Where it does not refuse; who needs a second to compile a line gets fewer of them."""
    lines = AWKWARD if peer.library == "compiled" else AWKWARD + MORE
    answered = [conv for _, conv in read(lines) if not _wrong(peer, conv)]
    assert len(answered) >= 2


def _wrong(peer: Peer, conv: Conv) -> str | None:
    """Why a library is not asked; what is asked must be right, twice in a row."""
    why = peer.why_not(conv)
    if why:
        assert len(why.split()) > 3
        return why
    arrays = draw(conv)
    run = peer.prepare(conv, *arrays)
    for _ in range(2):
        wrong = answers(conv, arrays).why_wrong(run())
        assert wrong is None, f"{name(peer)} on {conv}: {wrong}"
    return None


def test_a_chosen_library_comes_with_konv_or_is_said_to_be_absent() -> None:
    here = {peer.library for peer in installed()}
    for library in LIBRARIES[1:]:
        if library in here:
            assert {peer.library for peer in installed((library,))} == {"konv", library}
        else:
            with pytest.raises(ProblemError, match=f"{library} is not installed here"):
                installed((library,))


def test_own_algorithms_are_peers_on_request() -> None:
    """Each by its name, in both layouts, pinned; it refuses what its algorithm refuses."""
    assert [peer.library for peer in OWN] == [a.name for a in ALGORITHMS for _ in LAYOUTS]
    assert not {peer.library for peer in installed()} & {peer.library for peer in OWN}
    conv = Conv.parse("conv2d 1x4x7x9 o6 k3 p1")
    for peer in OWN:
        refused = by_name(peer.library).why_not(conv, llvm.detect())
        assert (refused is None) == (peer.why_not(conv) is None)
        assert refused is None or refused in str(peer.why_not(conv))
        run = peer.prepare(conv, *draw(conv))
        assert isinstance(run, partial)
        assert run.keywords["plan"] == peer.library


def test_what_an_algorithm_does_not_take_is_said_once() -> None:
    """One that takes no line has no column; below the rows stands why others have no time."""
    lines = ["conv2d 1x4x5x6 o4 k1", "conv2d 1x8x5x6 o8 k3 p1 g8"]
    problems = [(line, Conv.parse(line)) for line in lines]
    made = bench(problems, Settings(budget=0.001), installed(("own",)))
    assert {"depthwise", "planar", "direct"} < {each.library for each in made.competitors}
    assert not {"spread", "subpixel"} & {each.library for each in made.competitors}
    assert any("depthwise" in name for name in made.rows[0].refused)
    said = [text.plain(line) for line in closing(made)]
    assert not any("does not compute" in line for line in said)
    assert NOT_TAKEN in " ".join(said)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: str(a.name))
def test_own_algorithms_answer_right(algorithm: Algorithm) -> None:
    """Where they do not refuse."""
    mine = [peer for peer in OWN if peer.library == algorithm.name]
    lines = [conv for _, conv in read(AWKWARD + MORE + SPECIAL)]
    assert sum(not _wrong(peer, conv) for peer in mine for conv in lines) >= 2


def test_importing_the_bench_imports_no_peer() -> None:
    code = "import sys, konv.bench, konv.bench.peers as p; p.installed(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "onnx", *LIBRARIES[2:]} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("library", "line", "said"),
    [
        ("ncnn", "conv2d 2x4x7x9 o6 k3", "one image"),
        ("ncnn", "conv2d 1x4x7x9 o6 k3 p1 reflect", "pads in mode reflect"),
        ("openvino", "conv2d 1x4x7x9 o6 k3 p1 circular", "no circle"),
        ("onnxruntime", "conv2d 1x4x7x9 o6 k3 f64", "float32 only, not in float64"),
        ("jax", "conv2d 1x4x7x9 o6 k3 f64", "float32 only, not in float64"),
        ("compiled", "conv2d 1x4x7x9 o6 k3 f64", "float32 only, not in float64"),
    ],
)
def test_what_a_library_cannot_do_is_said_in_words(library: str, line: str, said: str) -> None:
    """Said without the library: its file holds the rule."""
    kinds = {
        "ncnn": "Ncnn", "openvino": "OpenVino", "onnxruntime": "OnnxRuntime", "jax": "Jax",
        "compiled": "Compiled",
    }  # fmt: skip
    module = __import__(f"konv.bench.peers.{library}", fromlist=["peers"])
    kind = getattr(module, kinds[library])
    peer = kind() if hasattr(kind, "layout") else kind("contiguous")
    assert said in str(peer.why_not(Conv.parse(line)))
    assert peer.why_not(Conv.parse("conv2d 1x4x7x9 o6 k3 p1:2x0:1 s2 d2 g2")) is None


def test_the_canonical_weight_makes_a_transposed_layer_an_ordinary_one() -> None:
    """What JAX is given: the same axes, the weight of an ordinary layer."""
    for _, conv in read_problems(SHAPES.read_text()):
        if conv.transposed and conv.n:
            x, w, b = draw(conv)
            ordinary = Conv(
                conv.n, conv.ci, conv.co, conv.axes, conv.groups, conv.dtype, mode=conv.mode
            )
            want, got = im2col(conv, x, w, b), im2col(ordinary, x, _canonical(conv, w), b)
            assert np.allclose(want, got), str(conv)


def test_a_channels_last_answer_is_turned_when_looked_at() -> None:
    a = np.arange(24).reshape(1, 2, 3, 4)
    assert np.asarray(ChannelsLast(a)).shape == (1, 4, 2, 3)
    assert np.array_equal(np.asarray(ChannelsLast(a))[0, 1], a[0, :, :, 1])


def turns(names: Sequence[str]) -> list[str]:
    """Who called, in order; "-" where there was a pause."""
    clock, order = FakeClock(), list[str]()
    runs = {each: _called(order, each, clock) for each in names}
    timing.alternate(runs, 0.01, clock=clock, pause=lambda: order.append("-"))
    return [each for i, each in enumerate(order) if i == 0 or each != order[i - 1]]


def _called(order: list[str], each: str, clock: FakeClock) -> timing.Run:
    run = clock.run([1e-3])
    return lambda: (order.append(each), run())


def test_a_pause_stands_before_the_turn_of_another_library() -> None:
    """And before no other: one library's threads are its own in both layouts."""
    said = turns(["konv a", "konv b", "torch a"])[3:]  # behind the calls that find the pace
    assert said[:9] == [
        "-", "konv a", "konv b", "-", "torch a", "-", "konv b", "konv a", "konv b",
    ]  # fmt: skip


def test_settling_ends_when_nobody_consumes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    consumed = iter([0.0, 5e-3, 5e-3, 9e-3, 9e-3, 9.1e-3, 9.1e-3])
    slept: list[float] = []
    monkeypatch.setattr(timing, "process_time", lambda: next(consumed))
    monkeypatch.setattr(timing, "sleep", slept.append)
    timing.settle()
    assert slept == [timing.WINDOW] * 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("peer", [p for p in PEERS if p.library == "jax"][:1], ids=name)
def test_jax_keeps_its_threads_and_says_so(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    conv = Conv.parse("conv2d 1x2x5x5 o2 k3")
    peer.prepare(conv, *draw(conv))
    other = get_num_threads() + 1
    monkeypatch.setattr("konv.bench.peers.jax.get_num_threads", lambda: other)
    assert "has started with" in str(peer.why_not(conv))


def test_models_need_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads models competes only where they can be written."""
    monkeypatch.setattr(
        "konv.bench.peers.model.find_spec",
        lambda library: None if library == "onnx" else find_spec(library),
    )
    found = {peer.library for peer in installed()}
    assert not found & {"onnxruntime", "openvino"}
