"""The frozen network: a snapshot of a model for inference, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensor
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

from konv.errors import UnsupportedError
from konv.nn.account import Report, Row
from konv.nn.freeze.calls import Places
from konv.nn.freeze.layer import FORMATS
from konv.nn.freeze.pieces import Took
from konv.nn.freeze.straight import straight

_wrapped = torch._C._functorch.is_functorch_wrapped_tensor
_disable: Any = torch.compiler.disable
_unpack: Any = forward_ad.unpack_dual


class Frozen(nn.Module):
    """A model as it was when it was frozen, in evaluation mode. Made by `konv.accelerate`.

    It computes what the model computed, for any batch and size, and no gradients. It does not
    follow later changes of the model. `report` says what was done to each convolution.
    """

    def __init__(
        self,
        network: nn.Module,
        took: Took,
        notes: tuple[str, ...] = (),
        places: Places | None = None,
    ) -> None:
        super().__init__()
        super().train(False)
        self.network = network
        self.places = places  # None: the network is called as the model is
        self.layers = {name: layer for name, (layer, _) in took.items()}
        self.rows = {
            name: Row(name, layer.kind, "konv", _words(what))
            for name, (layer, what) in took.items()
        }
        self.notes = notes
        self._straight: Callable[..., Any] | None = None
        self.last = False  # inside the network
        self.results_last = False  # whatever comes in: the model's weights lie channels-last

    def __repr__(self) -> str:
        return f"Frozen({self.report})"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns in evaluation mode."""
        if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            return _uncompiled(self, args, kwargs)
        return self._returned(args, kwargs)

    def _returned(self, args: Any, kwargs: Any) -> Any:
        flat, form = pytree.tree_flatten((args, kwargs))
        contiguous = not self.results_last
        for i, each in enumerate(flat):
            if isinstance(each, Tensor):
                flat[i] = _checked(each)
                contiguous = contiguous and not is_last(each)
        args, kwargs = pytree.tree_unflatten(flat, form)
        if kwargs and self.places is not None:
            args, kwargs = self.places(args, kwargs)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            y = self._function()(*args, **kwargs)
            if self.last and contiguous:  # as the model would have returned it
                y = pytree.tree_map_only(Tensor, _contiguous, y)
        return y

    def _function(self) -> Callable[..., Any]:
        """The network; if its code can be had and nobody watches its layers, by that code."""
        watched = any(m._forward_hooks or m._forward_pre_hooks for m in self.layers.values())
        if watched or not isinstance(self.network, fx.GraphModule):
            return self.network
        if self._straight is None:
            self._straight = straight(self.network)
        return self._straight

    def __getstate__(self) -> dict[str, Any]:
        """Without the code, which is bound to the layers of this very network."""
        return {**self.__dict__, "_straight": None}

    @property
    def report(self) -> Report:
        """What became of each convolution, with the weights that are packed by now."""
        rows = tuple(
            replace(row, packed=self.layers[name].packed_bytes) if name in self.layers else row
            for name, row in self.rows.items()
        )
        return Report("frozen", rows, self.notes)

    def lie_last(self, last: bool) -> None:
        """Let images lie channels-last inside the network, or as they come."""
        self.last = last
        for layer in self.layers.values():
            layer.last = True if last else None

    def train(self, mode: bool | None = None) -> Frozen:
        """Refused: there is nothing left to train. Where a larger model passes its own mode on, as
        `train(mode)`, it stays in evaluation mode: what is around it can be trained.
        """
        if mode is None:
            _refuse("train()", "cannot be trained", "Train the model itself and freeze it again")
        return self

    def load_state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:  # noqa: ARG002
        """Refused: the weights are packed, with the batch normalisation in them."""
        _refuse(
            "load_state_dict()",
            "has no weights of its own to load into",
            "Load them into the model itself and freeze it again",
        )

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: what could be read here is not what the model was made of. To that of a larger
        model which it is a part of it adds nothing.
        """
        larger = args[0] if args else kwargs.get("destination")
        if larger is None:
            _refuse(
                "state_dict()",
                "has folded and packed weights",
                "Save that of the model itself; the frozen one can be pickled as a whole",
            )
        return larger

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """As part of a larger model: it keeps what it has, and misses nothing."""
        state_dict.update(super().state_dict(prefix=prefix))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __prepare_scriptable__(self) -> NoReturn:
        """Refused, as torch.jit.script asks before it changes anything."""
        _refuse(
            "torch.jit.script()", "has no code that it could compile", "Script the model itself"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frozen:  # noqa: ARG002
        probe = torch.empty(0, device="cpu")
        moved = fn(probe)
        if moved.dtype != probe.dtype or moved.device != probe.device:
            _refuse(
                f".to({moved.device}, {moved.dtype})",
                "stays what and where it was",
                "Convert the model itself and freeze it again",
            )
        return self


_uncompiled = _disable(
    Frozen._returned,
    reason="konv's frozen network computes numbers: torch.compile can only call it, between graphs",
)


def _words(what: list[str]) -> str:
    return f"with {', '.join(what)}" if what else ""


def _refuse(what: str, why: str, instead: str) -> NoReturn:
    raise UnsupportedError(
        f"{what}: a frozen network is a snapshot for inference and {why}. {instead}."
    )


def _written_down() -> bool:
    """Whether a tracer writes down what PyTorch computes: it would miss what konv does."""
    if torch._C._get_tracing_state() is not None:
        return True
    if not torch._C._len_torch_dispatch_stack():
        return False
    from torch.fx.experimental.proxy_tensor import get_proxy_mode  # takes long to import

    return get_proxy_mode() is not None  # other modes, that count or look on, only see less


def _dual(x: Tensor) -> bool:
    """Whether forward mode is at work on x, which no_grad does not end."""
    return forward_ad._current_level >= 0 and _unpack(x).tangent is not None


def _checked(x: Tensor) -> Tensor:
    """An argument that layers may read, or a copy of it."""
    if x.requires_grad and torch.is_grad_enabled():
        raise UnsupportedError(
            "an argument requires grad, and a frozen network computes no gradients. Call it under "
            "torch.no_grad(), pass x.detach(), or use the model itself."
        )
    if isinstance(x, FakeTensor) or _written_down() or _wrapped(x) or _dual(x):
        raise UnsupportedError(
            "a frozen network computes numbers, and cannot be traced, exported or differentiated, "
            "by torch.func or forward mode either. Use the model itself: its layers, konv's too, "
            "export as PyTorch's own."
        )
    if x.device.type == "cpu" and x.layout is torch.strided:
        if x.is_neg() or x.is_conj():
            return x.resolve_neg().resolve_conj()
        if x.numel() and x.data_ptr() % x.element_size():
            return x.clone(memory_format=torch.preserve_format)
    return x


def is_last(x: Tensor) -> bool:
    """Whether a tensor lies channels-last and not contiguous as well."""
    form = FORMATS.get(x.dim())
    return (
        form is not None
        and x.layout is torch.strided
        and x.is_contiguous(memory_format=form)
        and not x.is_contiguous()
    )


def _contiguous(y: Tensor) -> Tensor:
    return y.contiguous() if is_last(y) else y
