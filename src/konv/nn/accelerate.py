"""konv.accelerate and konv.restore: the convolutions of a model computed by konv, and its batch
normalisation while it trains.

In place, a layer changes its class and nothing else: torch.nn.Conv2d becomes konv.nn.Conv2d, which
differs in how it computes. So its parameters are the same objects, and its name, hooks,
parametrizations, buffers, memory and mode are as they were; and back again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any, Literal, overload

import torch
from torch import nn

from konv.errors import ProblemError
from konv.nn import freeze as frozen
from konv.nn import lazy, linear, modules, norms, rectified, sequence
from konv.nn.account import Report, Row
from konv.nn.freeze import Frozen
from konv.nn.freeze.fold import class_of
from konv.nn.freeze.measure import CLEARLY, alternate, clone
from konv.nn.freeze.trace import is_replaced, tensors

TAKEN: dict[type[nn.Module], type[nn.Module]] = {
    getattr(nn, name): getattr(modules, name)
    for name in (
        "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d",
    )
}  # fmt: skip
# Taken if the example shows that it pays: without one it is not known what they are called with.
TRIED: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: linear.Linear}
# Taken too, without a word in the report: what they compute in training mode.
BESIDES: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: norms.BatchNorm1d,
    nn.BatchNorm2d: norms.BatchNorm2d,
    nn.BatchNorm3d: norms.BatchNorm3d,
    nn.ReLU: rectified.ReLU,
    nn.ReLU6: rectified.ReLU6,
    nn.Sequential: sequence.Sequential,
}
OURS = tuple(TAKEN.values())
BEFORE = "_konv_class_before"  # a taken layer's attribute: its class, for the way back
REPORT = "_konv_report"  # the model's


@overload
def accelerate(
    model: nn.Module, example: Any = None, *, freeze: Literal[False] = False
) -> nn.Module: ...
@overload
def accelerate(model: nn.Module, example: Any = None, *, freeze: Literal[True]) -> Frozen: ...
def accelerate(model: nn.Module, example: Any = None, *, freeze: bool = False) -> nn.Module:
    """Let konv compute the convolutions of a model, in place, or make a frozen copy for inference.

    model     any torch.nn.Module
    example   a tensor that the model is called with, or a tuple of its arguments: each layer is
              timed on it, once by konv and once by PyTorch, and PyTorch keeps what it does faster.
              Linear layers over channels-last maps are pointwise convolutions: konv takes those
              that it computes faster
    freeze    False: the model itself is changed and returned. Parameters, names, hooks, buffers,
              parametrizations and training mode stay; it trains as before. In training mode konv
              computes its batch normalisation too, together with a ReLU or ReLU6 behind it where
              that is certain. `konv.restore` undoes it, `konv.nn.report` says what was done.
              Layers of classes derived from PyTorch's are left alone.
              True: a new module is returned, for inference only, and the model is not touched: a
              snapshot, in evaluation mode, with batch normalisation folded into weights that are
              packed once, activations and sums done by the convolutions before them. It does not
              see later changes of the model; train() and load_state_dict() are refused. Its
              `report` says what was done. Where the model's code depends on its input it is frozen
              part by part.

    Raises TypeError for what is no model or example, ProblemError for a model that is accelerated
    or frozen already; then nothing was changed. An example is run in evaluation mode.

    >>> import torch, konv
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)).eval()
    >>> x = torch.ones(1, 3, 9, 9)
    >>> frozen = konv.accelerate(model, freeze=True)
    >>> print(frozen.report)
    frozen: 1 of 1 convolutions by konv
      0  conv2d 3 o8 k3  konv  with batch norm
    >>> torch.allclose(frozen(x), model(x), atol=1e-5)
    True
    >>> konv.accelerate(model) is model, type(model[0])
    (True, <class 'konv.nn.modules.Conv2d'>)
    >>> type(konv.restore(model)[0])
    <class 'torch.nn.modules.conv.Conv2d'>
    """
    _check(model, "accelerated")
    args = None if example is None else tensors(example)
    if freeze:
        return frozen.freeze(model, args)
    if any(BEFORE in m.__dict__ and class_of(m) in OURS for m in model.modules()):
        raise ProblemError(
            "the model is accelerated already, or a part of it is. Use konv.restore(model) first "
            "to measure again, or use it as it is."
        )
    layers = {name: m for name, m in model.named_modules() if isinstance(m, CONVOLUTIONS)}
    rows = {name: Row(name, _kind(m), "PyTorch", why_not(m) or "") for name, m in layers.items()}
    taken = {name: m for name, m in layers.items() if not rows[name].what}
    for name, module in taken.items():
        _take(module)
        rows[name] = Row(name, _kind(module), "konv")
    if args is not None:
        tried = {name: m for name, m in model.named_modules() if type(m) in TRIED}
        for name, module in tried.items():
            if not is_replaced(module):
                _take(module)
                taken[name] = module
    try:
        if args is not None:
            rows |= _measure(model, taken, args)
    except BaseException:
        for module in taken.values():
            _give_back(module)
        raise
    _take_besides(model)
    model.__dict__[REPORT] = Report("accelerated", tuple(rows.values()))
    return model


CONVOLUTIONS = tuple(TAKEN)


def restore(model: nn.Module) -> nn.Module:
    """Undo `konv.accelerate(model)`: PyTorch computes the layers again, weights stay as they are.

    Returns the model. One that was not accelerated is left as it is. TypeError for what is no
    model, ProblemError for a frozen one.

    >>> from torch import nn
    >>> model = accelerate(nn.Sequential(nn.Conv1d(2, 4, 3)))
    >>> restore(model)
    Sequential(
      (0): Conv1d(2, 4, kernel_size=(3,), stride=(1,))
    )
    """
    _check(model, "restored")
    for module in _outside_frozen(model):
        _give_back(module)
        module.__dict__.pop(REPORT, None)
    return model


def _outside_frozen(model: nn.Module) -> list[nn.Module]:
    """The modules of a model without those inside frozen networks that were put into it."""
    inside = {m for f in model.modules() if isinstance(f, Frozen) for m in f.modules()}
    return [m for m in model.modules() if m not in inside]


def report(model: nn.Module) -> Report:
    """What `konv.accelerate` did to a model: a table to print, with a row for each convolution.

    ProblemError for a model that konv.accelerate has not seen.

    >>> from torch import nn
    >>> print(report(accelerate(nn.Sequential(nn.Conv2d(4, 6, 3)))))
    accelerated: 1 of 1 convolutions by konv
      0  Conv2d(4, 6, kernel_size=(3, 3), stride=(1, 1))  konv
    """
    if isinstance(model, Frozen):
        return model.report
    found = getattr(model, "__dict__", {}).get(REPORT)
    if not isinstance(found, Report):
        raise ProblemError(
            f"there is no report of this {type(model).__name__}. Use konv.accelerate(model) first."
        )
    modules = dict(model.named_modules())
    return replace(found, rows=tuple(_now(row, modules.get(row.name)) for row in found.rows))


def _now(row: Row, module: nn.Module | None) -> Row:
    """The row of a layer that may have been restored by itself since."""
    if row.by != "konv" or module is None or BEFORE in module.__dict__:
        return row
    return replace(row, by="PyTorch", what="restored")


def why_not(module: Any) -> str | None:
    """Why a layer is left alone, None if it is taken."""
    kind = class_of(module)
    if kind in TAKEN.values() or kind.__module__ == lazy.__name__:
        return "konv's already"
    if kind not in TAKEN:
        return f"{type(module).__name__} is a class of its own"
    if is_replaced(module):
        return "its forward was replaced"
    return None


def _check(model: Any, done: str) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}. Use a torch.nn.Module.")
    parts = model.modules() if done == "accelerated" else [model]
    if any(isinstance(m, Frozen) for m in parts):
        raise ProblemError(
            f"a frozen network cannot be {done}: it is a snapshot. Use the model that it was made "
            f"of, which is as it was."
        )


def _take(module: Any) -> None:
    """Make a layer konv's; a parametrized one gets a class of its own, as PyTorch gave it."""
    kind, ours = type(module), (TAKEN | TRIED)[class_of(module)]
    module.__dict__[BEFORE] = kind
    if kind not in TAKEN | TRIED:
        ours = type(kind.__name__, (ours,), dict(kind.__dict__))
    module.__class__ = ours
    modules.share_settings(module)


def _take_besides(model: nn.Module) -> None:
    """Batch normalisation, sequences in which an activation follows it, and those in place."""
    for module in model.modules():
        ours = BESIDES.get(type(module))
        if ours is None or is_replaced(module):
            continue
        if isinstance(module, nn.Sequential) and not sequence.pays(module):
            continue
        if isinstance(module, nn.ReLU | nn.ReLU6) and not module.inplace:
            continue
        module.__dict__[BEFORE] = type(module)
        module.__class__ = ours


def _give_back(module: Any) -> None:
    """Make it PyTorch's again, also if its parametrizations have come or gone meanwhile."""
    before = module.__dict__.pop(BEFORE, None)
    if before is None:
        return
    now = type(module)
    theirs = {ours: theirs for theirs, ours in (TAKEN | TRIED | BESIDES).items()}.get(
        class_of(module)
    )
    if theirs is None:
        return
    if not nn.utils.parametrize.is_parametrized(module):
        module.__class__ = theirs
    elif theirs in before.__bases__:
        module.__class__ = before
    else:
        module.__class__ = type(now.__name__, (theirs,), dict(now.__dict__))


def _kind(module: nn.Module) -> str:
    return repr(module).splitlines()[0].rstrip("(")


def _measure(model: nn.Module, taken: dict[str, Any], args: tuple[Any, ...]) -> dict[str, Row]:
    """Time each layer as the example meets it; those that PyTorch computes faster go back."""
    times: dict[Any, dict[str, float]] = {}

    def time(module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = signature(module.forward).bind(*args, **named).args
        if module not in times and (type(module) not in TRIED.values() or given[0].dim() > 2):
            times[module] = alternate(
                {
                    "konv": partial(module.forward, *given),
                    "PyTorch": _by_torch(module, given),
                }
            )

    hooks = [module.register_forward_pre_hook(time, with_kwargs=True) for module in taken.values()]
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model(*clone(args))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    rows = {}
    for name, module in taken.items():
        convolves = type(module) not in TRIED.values()
        if module not in times and not convolves:
            _give_back(module)
            continue
        if module not in times:
            rows[name] = Row(name, _kind(module), "konv", "not called for the example")
            continue
        before, after = times[module]["PyTorch"], times[module]["konv"]
        by = "PyTorch" if before < CLEARLY * after else "konv"
        if by == "PyTorch":
            _give_back(module)
        if convolves or by == "konv":
            what = "" if convolves else "a pointwise convolution"
            rows[name] = Row(name, _kind(module), by, what, before, after)
    return rows


def _by_torch(module: Any, given: tuple[Any, ...]) -> Callable[[], Any]:
    """The layer's call as PyTorch computes it."""
    theirs: Any = {ours: theirs for theirs, ours in (TAKEN | TRIED).items()}[class_of(module)]
    if getattr(module, "transposed", None) is False:
        return lambda: theirs._conv_forward(module, *given, module.weight, module.bias)
    return lambda: theirs.forward(module, *given)
