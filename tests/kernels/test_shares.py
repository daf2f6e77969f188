"""What threads share: units as even as can be, whose results lie on cache lines of their own."""

from __future__ import annotations

import numpy as np
import pytest
from kernels.layers import TARGETS

import konv
from konv.arrays import dense_strides, of_numpy
from konv.geometry import Conv
from konv.kernels import by_name
from konv.kernels.lines import CHOICES, LARGEST, sizes_of
from konv.runtime.choose import choose


def words(line: str, machine: str, threads: int, last: bool) -> dict[str, int]:
    """Those of the chosen plan's job."""
    conv, target = Conv.parse(line), TARGETS[machine]
    plan = choose(conv, target, not last, not last)
    algorithm = by_name(plan.algorithm)
    strides = (dense_strides(shape, last) for shape in (conv.in_shape, conv.out_shape))
    found = algorithm.work(conv, plan, target, *strides, threads)
    return dict(zip(algorithm.words, found.words, strict=False))


@pytest.mark.parametrize("count", [1, 2, 13, 28, 65, 149, 192, 196, 250, 1000])
@pytest.mark.parametrize("limit", [256, 64])
def test_sizes_of_boxes(count: int, limit: int) -> None:
    """The largest first; a half, a third and a quarter are never left out; one line is last."""
    sizes = sizes_of(count, limit)
    assert sizes == sorted(set(sizes), reverse=True)
    assert len(sizes) <= CHOICES + 1
    assert sizes[-1] == 1
    assert sizes[0] == -(-count // -(-count // limit))
    every = dict.fromkeys(-(-count // k) for k in range(-(-count // limit), count + 1))
    assert set(sizes) <= set(every)
    assert len(every) > CHOICES or sizes == list(every)
    if count <= limit:
        pieces = (-(-count // k) for k in range(1, LARGEST + 1))
        assert set(pieces) <= set(sizes)


@pytest.mark.parametrize(("ci", "co"), [(576, 96), (384, 64), (200, 80)])
def test_uneven_chunks_are_no_halves(ci: int, co: int) -> None:
    """Six vectors of output channels are a block of four and one of two: pixels are halved."""
    found = words(f"conv2d 1x{ci}x14x14 o{co} k1", "avx512", 2, last=True)
    assert found["chunks"] == 1
    assert found["units"] == 2


@pytest.mark.parametrize("machine", ["avx2", "avx512"])
@pytest.mark.parametrize(
    "line", ["conv2d 1x384x14x14 o384 k3 p1 g384", "conv2d 1x960x7x7 o960 k3 p1 g960"]
)
def test_rows_before_lines(line: str, machine: str) -> None:
    """Channels-last, depthwise: between two threads' units is a row, not a pixel's next line."""
    found = words(line, machine, 2, last=True)
    assert found["boxes1"] % 2 == 0
    assert found["units"] >= 2


@pytest.mark.parametrize("last", [True, False])
def test_rows_between_steps_are_no_work(last: bool) -> None:
    """A layer of one tap in steps of two sees every other row of the image, and no others."""
    found = words("conv2d 1x256x56x56 o512 k1 s2", "avx512", 2, last)
    assert (found["size1"], found["size2"]) == (28, 56)
    assert found["x_stride1"] == 2 * 56 * (256 if last else 1)


def test_results_of_numpy_begin_on_a_cache_line() -> None:
    """Large ones: pixels of channels-last results then do, too, if they are whole lines."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 33, 33, 32), dtype="f4").transpose(0, 3, 1, 2)
    w = rng.standard_normal((32, 1, 3, 3), dtype="f4")
    y = konv.conv2d(x, w, padding=1, groups=32)
    assert y.nbytes >= of_numpy.LEAST
    assert y.ctypes.data % of_numpy.LINE == 0
    assert y.flags.writeable
    assert y.strides == (33 * 33 * 32 * 4, 4, 33 * 32 * 4, 32 * 4)
    small = konv.conv2d(x[:, :, :5, :5], w, padding=1, groups=32)
    assert np.array_equal(small[:, :, :4, :4], y[:, :, :4, :4])
