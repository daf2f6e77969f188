"""Tensors that are met again: one question to PyTorch instead of twenty.

A small convolution takes PyTorch 6 us, and to look at three tensors as `TorchKind.glance` does
takes 2.3. PyTorch asks the same of the inputs of compiled code, in C++ and in 0.6 us
(`TensorGuards`): types, dtypes, devices, sizes, strides, requires_grad, and the dispatch keys,
which tell negated, sparse and wrapped tensors, autocast, transforms, traces and inference mode, but
not modes of PyTorch's own (make_fx, FakeTensorMode). Where two calls with one weight had equal
tensors, such a question is kept for the next.

These are parts of PyTorch without a promise: they are tried once, and not relied upon if they fail.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from konv.arrays.kind import GRADIENT, PLAIN

REMEMBERED = 1024

Check = Callable[..., bool]
Seen = tuple[int, Any]  # what a glance says
# Whether tensors are as they were, what a glance says of their numbers, and where gradients may be
# wanted of them.
Met = tuple[Check, Seen, Seen | None]


class Recall:
    """What glances have said, by the object that was the weight; all else is asked anew."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        # Without a bias PyTorch is asked about two tensors, so these stand apart.
        self.biased: dict[int, Met] = {}
        self.bare: dict[int, Met] = {}
        self._tokens: dict[Any, object] = {}

    @cached_property
    def _alike(self) -> Callable[..., Check] | None:
        """Not before numbers are computed: torch.compile, which cannot trace it, may come first."""
        return _tried(self._torch)

    def note(self, key: Any, seen: int, x: Any, weight: Any, bias: Any) -> Seen:
        """Remember what a glance has said, its key made an object that is quick to look up."""
        if self._alike is None:
            return seen, key
        if len(self._tokens) >= REMEMBERED and key not in self._tokens:
            self._tokens.clear()
        token = self._tokens.setdefault(key, object())
        met = self.bare if bias is None else self.biased
        tensors = (x, weight) if bias is None else (x, weight, bias)
        last = met.get(id(weight))
        check = self._alike(*tensors) if last is not None and last[1][1] is token else _never
        wanted = any(each.requires_grad for each in tensors)
        if len(met) >= REMEMBERED:
            met.clear()
        met[id(weight)] = check, (PLAIN, token), (GRADIENT, token) if wanted else None
        return seen, token


def _never(*_: Any) -> bool:
    """The answer where a weight was met once: images that change their size would have a question
    made at each call, which takes 4 us.
    """
    return False


def _tried(torch: Any) -> Callable[..., Check] | None:
    """What makes a question of tensors, if PyTorch has what that takes, and it works."""
    try:
        guards: Any = torch._C._dynamo.guards.TensorGuards

        def alike(*tensors: Any) -> Check:
            sizes, strides = [list(a.shape) for a in tensors], [list(a.stride()) for a in tensors]
            made = guards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
            check: Check = made.check
            return check

        with torch.inference_mode(False):
            one, other = torch.empty(2, 3), torch.empty(2, 3)
            check = alike(one, one)
            unlike = other.t(), other[:1], other.double(), torch._neg_view(other)
            works = check(other, one) and not any(check(each, one) for each in unlike)
            with torch.autocast("cpu"):
                works = works and not check(other, one)
            works = works and not check(other, one.requires_grad_())
    except (AttributeError, RuntimeError, SystemError, TypeError):
        return None
    return alike if works else None
