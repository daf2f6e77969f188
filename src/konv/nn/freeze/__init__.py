"""Freezing: from a model a new one, for inference only, in which convolutions take along what
follows them and have their weights packed.

    freeze       below: copy, trace, rewrite, compare, measure
    trace.py     a module as a graph of its steps      pieces.py       where that fails, its parts
    fuse.py      the rewriting of the graph            activations.py  which steps are activations
    fold.py      batch normalisation into weights      formats.py      channels-last inside
    layer.py     one convolution of the result         frozen.py       the result as a module
    straight.py  its code                              measure.py      konv or PyTorch, by layer
    calls.py     arguments by place and by name
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from konv.errors import KonvError, UnsupportedError
from konv.nn.account import Row
from konv.nn.freeze.calls import Part, Places
from konv.nn.freeze.fold import is_convolution, why_not
from konv.nn.freeze.formats import free_of_format
from konv.nn.freeze.frozen import Frozen, is_last
from konv.nn.freeze.measure import choose_format, choose_layers, clone
from konv.nn.freeze.pieces import Took, freeze_parts, freeze_whole
from konv.nn.freeze.trace import Untraceable, has_hooks, is_replaced, tensors

__all__ = ["Frozen", "freeze"]

# Of the largest number that the model returns: a wrong graph is wrong by more.
AGREE = {torch.float64: 1e-8, torch.float32: 1e-2, torch.float16: 0.1, torch.bfloat16: 0.3}


def freeze(model: nn.Module, example: Any = None) -> Frozen:
    """A snapshot of a model for inference; see `konv.accelerate`."""
    args = None if example is None else tensors(example)
    _check_modes(model)
    copied = _copy(model)
    right = None if args is None else _returned(copied, args)
    try:
        took: Took = {}
        frozen = _whole(copied, None if args is None else len(args), took)
        if args is not None and not agree(right, _returned(frozen, args)):
            raise Untraceable("the graph of one call computes something else in another")
    except Untraceable as error:
        copied, took = _copy(model), {}  # parts of the first copy may be frozen by now
        frozen = _by_parts(copied, took, error)
    network = frozen.network
    lasting = isinstance(network, fx.GraphModule) and free_of_format(network)
    if lasting:
        frozen.lie_last(True)
    frozen.results_last = any(
        is_convolution(m) and is_last(cast(Tensor, m.weight)) for m in model.modules()
    )
    frozen.rows |= {row.name: row for row in _left(model, took)}
    if args is not None:
        _measure(frozen, args, lasting)
        if not agree(right, _returned(frozen, args)):
            raise KonvError(
                "the frozen network does not return what the model returns for the example. Use "
                "konv.accelerate(model) without freeze=True, and please report the model."
            )
    return frozen


def _whole(copied: nn.Module, given: int | None, took: Took) -> Frozen:
    notes: list[str] = []
    network = freeze_whole(copied, given, took, notes)
    if isinstance(network, fx.GraphModule) and not has_hooks(copied):
        return Frozen(network, took, tuple(notes), Places(copied))
    copied.__dict__["forward"] = Part(copied, network, given)  # below its hooks
    return Frozen(copied, took, tuple(notes))


def _by_parts(copied: nn.Module, took: Took, error: Untraceable) -> Frozen:
    if is_replaced(copied):  # who knows which modules that calls
        return Frozen(copied, took, (f"not frozen: {error}",))
    notes = [f"frozen part by part: {error}"]
    freeze_parts(copied, "", took, notes)
    return Frozen(copied, took, tuple(notes))


def _check_modes(model: nn.Module) -> None:
    """A function in the place of a forward is the model's and its copy's, in one mode for both."""
    for name, module in model.named_modules():
        bound = getattr(module.__dict__.get("forward"), "__self__", None) is module
        if is_replaced(module) and not bound and any(m.training for m in model.modules()):
            raise UnsupportedError(
                f"the forward of {name or 'the model'} was replaced by a function, which a copy of "
                f"the model in evaluation mode would share. Call model.eval() before freezing."
            )


def _copy(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, with tensors of its own. What a hook has computed from its
    parameters (pruning, the older weight_norm) PyTorch does not copy, so it is given as copied.
    """
    attributes = [each for module in model.modules() for each in vars(module).values()]
    computed = [each for each in attributes if isinstance(each, Tensor) and not each.is_leaf]
    try:
        with torch.no_grad():
            known = {id(each): each.detach().clone() for each in computed}
            return deepcopy(model, known).eval().requires_grad_(False)
    except Exception as error:  # whatever the copying of its parts raises
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnsupportedError(
            f"the model cannot be copied ({why}), and freezing works on a "
            f"copy. Make copy.deepcopy(model) work: call the model once under torch.no_grad(), or "
            f"remove what holds on to results of training."
        ) from error


def _returned(network: nn.Module, args: tuple[Any, ...]) -> Any:
    """What a network returns for the arguments, as a frozen one computes: in the precision of its
    weights. Random numbers are the same every time.
    """
    exact = torch.autocast("cpu", enabled=False)
    with torch.no_grad(), exact, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return network(*clone(args))


def agree(right: Any, found: Any) -> bool:
    """Whether two results have the same form and about the same numbers."""
    ours, our_form = pytree.tree_flatten(found)
    theirs, their_form = pytree.tree_flatten(right)
    return our_form == their_form and all(map(_agree, theirs, ours))


def _agree(right: Any, found: Any) -> bool:
    if not isinstance(right, Tensor) or not right.dtype.is_floating_point:
        return True  # of other kinds of results rounding may change any
    if not isinstance(found, Tensor) or found.shape != right.shape or found.dtype != right.dtype:
        return False
    if right.is_meta or found.is_meta:
        return right.is_meta and found.is_meta  # no numbers
    known = right.isfinite()
    share = AGREE.get(right.dtype, 1e-2)
    right, found = right[known].double(), found[known].double()
    allowed = share * (right.abs().max() if right.numel() else 0)
    return bool(((right - found).abs() <= allowed).all())


def _left(model: nn.Module, took: Took) -> list[Row]:
    """The convolutions of the model that stay PyTorch's, and why."""
    rows = []
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd) and name not in took:
            why = why_not(module) or "not called in evaluation mode, or with more than its input"
            rows.append(Row(name, type(module).__name__, "PyTorch", why))
    return rows


def _measure(frozen: Frozen, args: tuple[Any, ...], lasting: bool) -> None:
    def call() -> Any:
        return _returned(frozen, args)

    if lasting:
        choose_format(frozen, call)
    choose_layers(frozen, call)
