"""Another class for a layer of a model, and back: PyTorch's layer computed by konv.

A layer changes its class and nothing else: torch.nn.Conv2d becomes konv.nn.Conv2d, which differs in
how it computes. So its parameters are the same objects, and its name, hooks, parametrizations,
buffers, memory and mode are as they were; and back again.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from konv.nn import lazy, linear, modules, norms, rectified, sequence
from konv.nn.freeze.fold import class_of
from konv.nn.freeze.trace import is_replaced

TAKEN: dict[type[nn.Module], type[nn.Module]] = {
    getattr(nn, prefix + name): getattr(home, prefix + name)
    for prefix, home in (("", modules), ("Lazy", lazy))
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
CONVOLUTIONS, OURS = tuple(TAKEN), tuple(TAKEN.values())
ALREADY = "konv's already"
BEFORE = "_konv_class_before"  # a taken layer's attribute: its class, for the way back


def why_not(module: Any) -> str | None:
    """Why a layer is left alone, None if it is taken."""
    kind = class_of(module)
    if kind in OURS:
        return ALREADY
    if kind not in TAKEN:
        return f"{type(module).__name__} is a class of its own"
    if is_replaced(module):
        return "its forward was replaced"
    return None


def take(module: Any) -> None:
    """Make a layer konv's; a parametrized one gets a class of its own, as PyTorch gave it."""
    kind, ours = type(module), (TAKEN | TRIED)[class_of(module)]
    module.__dict__[BEFORE] = kind
    if kind not in TAKEN | TRIED:
        ours = type(kind.__name__, (ours,), dict(kind.__dict__))
    module.__class__ = ours
    modules.share_settings(module)


def take_besides(model: nn.Module) -> None:
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


def give_back(module: Any) -> None:
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
