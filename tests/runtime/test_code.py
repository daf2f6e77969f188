"""Kernels: in memory, on disk, or made now, of what there is."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any
from weakref import ref

import numpy as np
import pytest

import konv
from konv import llvm
from konv.geometry import Conv
from konv.kernels import single
from konv.llvm import build
from konv.runtime import code
from konv.runtime.choose import choose


@pytest.mark.usefixtures("place")
def test_a_process_learns_what_others_have_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first kernel of a process shares pieces with those on disk: few are compiled."""
    compiled, compile_all = list[Any](), build.compile_all
    code._bridge()

    def counted(pieces: Any, *rest: Any) -> Any:
        compiled.extend(pieces)
        return compile_all(pieces, *rest)

    monkeypatch.setattr(build, "compile_all", counted)
    plan = choose(Conv.parse("conv2d 1x16x9x9 o16 k1"), llvm.detect(), True, True)
    numbers = []
    for activation in ("", "relu"):  # it changes tiles, not how images are packed
        monkeypatch.setattr(build, "_known", {})
        monkeypatch.setattr(code, "_kernels", {})
        code._learn.cache_clear()
        compiled.clear()
        code.kernel(replace(plan, activation=activation))
        numbers.append(len(compiled))
    assert 0 < 2 * numbers[1] <= numbers[0]
    code._learn.cache_clear()


def test_kernels_that_no_layer_uses_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may have so many mappings of memory and no more; layers keep what they use."""
    monkeypatch.setattr(code, "_kernels", {})
    monkeypatch.setattr(code, "KEPT", 2)
    x, w = np.ones((1, 16, 3, 3), np.float32), np.ones((16, 16, 1, 1), np.float32)
    layer = konv.prepare(Conv.parse("conv2d 1x16x9x9 o16 k1"), w)
    assert np.all(layer(x) == 16)
    plan = choose(Conv.parse("conv2d 1x16x9x9 o16 k1"), llvm.detect(), True, True)
    seen = []
    for activation in ("relu", "relu6", "silu", "gelu"):
        seen.append(ref(code.kernel(replace(plan, activation=activation)).loaded))
        assert len(code._kernels) <= 2
    gc.collect()
    assert seen[0]() is None
    assert seen[-1]() is not None
    assert np.all(layer(x[:, :, :2]) == 16)
    assert np.all(layer(x) == 16)


def test_so_are_kernels_that_pack_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function keeps its code, whoever else has forgotten it."""
    monkeypatch.setattr(code, "_others", {})
    monkeypatch.setattr(code, "KEPT", 2)
    made = code.compiled
    seen = []

    def watched(*arguments: Any) -> Any:
        loaded = made(*arguments)
        seen.append(ref(loaded))
        return loaded

    monkeypatch.setattr(code, "compiled", watched)
    plan = choose(Conv.parse("conv2d 1x16x1x1 o16 k1"), llvm.detect(), True, True)
    kept = code.single_kernel(single.plan_like(plan, llvm.detect(), (16, 1, 1, 1)))
    for activation in ("relu", "relu6", "silu", "gelu"):
        other = replace(plan, activation=activation)
        code.single_kernel(single.plan_like(other, llvm.detect(), (16, 1, 1, 1)))
        assert len(code._others) <= 2
    gc.collect()
    assert [each() is None for each in seen] == [False, True, True, True, False]
    assert kept is not None
