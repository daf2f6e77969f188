"""konv.accelerate and konv.restore: the convolutions of a model computed by konv, and its batch
normalisation while it trains.

    exchange.py  another class for a layer    faster.py  with an example: by konv or by PyTorch
    account.py   the report                   freeze/    a new model, for inference
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, overload

from torch import nn
from torch.nn.parameter import is_lazy

from konv.errors import ProblemError
from konv.nn import freeze as frozen
from konv.nn.account import Report, Row
from konv.nn.exchange import (
    ALREADY,
    BEFORE,
    CONVOLUTIONS,
    OURS,
    TRIED,
    give_back,
    take,
    take_besides,
    why_not,
)
from konv.nn.faster import keep_the_faster, kind_of
from konv.nn.freeze import Frozen
from konv.nn.freeze.fold import class_of
from konv.nn.freeze.trace import is_replaced, tensors
from konv.runtime.weights import CACHE

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
              Lazy layers learn their channels from it.
              Linear layers over channels-last maps are pointwise convolutions: konv takes those
              that it computes faster
    freeze    False: the model itself is changed and returned. Parameters, names, hooks, buffers,
              parametrizations and training mode stay; it trains as before. In training mode konv
              computes its batch normalisation too, together with a ReLU or ReLU6 behind it where
              that is certain. `konv.restore` undoes it, `konv.nn.report` says what was done.
              Layers of classes derived from PyTorch's are left alone, quantized ones too; tools
              that look for PyTorch's classes, as those that quantize, want `konv.restore` first.
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
    rows = {name: _row(name, module) for name, module in layers.items()}
    taken = {name: m for name, m in layers.items() if why_not(m) is None}
    for module in taken.values():
        take(module)
    try:
        if args is not None:
            taken |= _take_tried(model)
            rows |= keep_the_faster(model, rows, taken, args)
    except BaseException:
        for module in taken.values():
            give_back(module)
        raise
    take_besides(model)
    model.__dict__[REPORT] = Report("accelerated", tuple(rows.values()))
    return model


def _row(name: str, module: nn.Module) -> Row:
    why = why_not(module)
    by = "konv" if why in (None, ALREADY) else "PyTorch"
    return Row(name, kind_of(module), by, why or "")


def _take_tried(model: nn.Module) -> dict[str, nn.Module]:
    """Take what only an example can tell about."""
    tried = {name: m for name, m in model.named_modules() if type(m) in TRIED}
    tried = {name: m for name, m in tried.items() if not is_replaced(m)}
    for module in tried.values():
        take(module)
    return tried


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
        give_back(module)
        module.__dict__.pop(REPORT, None)
    return model


def _outside_frozen(model: nn.Module) -> list[nn.Module]:
    """The modules of a model without those inside frozen networks that were put into it."""
    inside = {m for f in model.modules() if isinstance(f, Frozen) for m in f.modules()}
    return [m for m in model.modules() if m not in inside]


def report(model: nn.Module) -> Report:
    """What `konv.accelerate` did to a model: a table to print, with a row for each convolution.

    The packed weights of layers in place are those that konv holds by now, forward and backward:
    all that it holds takes 1 GiB at most.

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
    """The row of a layer that may have been restored by itself since, and what is packed of it."""
    if row.by != "konv" or module is None:
        return row
    if BEFORE not in module.__dict__ and row.what != ALREADY:
        return replace(row, by="PyTorch", what="restored")
    weight: Any = module._parameters.get("weight")
    known = weight is not None and weight.device.type == "cpu" and not is_lazy(weight)
    if not known:
        return row
    size, storage = weight.numel() * weight.element_size(), weight.untyped_storage()
    if weight.storage_offset() * weight.element_size() + size > storage.nbytes():
        return row  # with gaps: it was packed from a copy
    return replace(row, packed=CACHE.held(weight.data_ptr(), size))


def _check(model: Any, done: str) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}. Use a torch.nn.Module.")
    parts = model.modules() if done == "accelerated" else [model]
    if any(isinstance(m, Frozen) for m in parts):
        raise ProblemError(
            f"a frozen network cannot be {done}: it is a snapshot. Use the model that it was made "
            f"of, which is as it was."
        )
