"""Arrays of other libraries: exchanged through DLPack on the way in, and results on the way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from konv.arrays import Kind, from_dlpack

Back = Callable[[Any], Any]


def exchanged(
    kind: Kind | None, x: Any, weight: Any, bias: Any, residual: Any, out: Any
) -> tuple[list[Any], Back | None]:
    """x, weight, bias and residual as arrays that konv knows, and what makes a result one of the
    caller's library; `kind` is x's, if konv knows it. TypeError for a mixture of libraries, for
    what does not speak DLPack, and for `out`.
    """
    every = {"x": x, "weight": weight, "bias": bias, "residual": residual}
    names = {name: a for name, a in every.items() if a is not None or name in ("x", "weight")}
    if kind is not None:
        odd = next(name for name, a in names.items() if not kind.owns(a))
        raise TypeError(
            f"{odd} is a {type(names[odd]).__module__}.{type(names[odd]).__name__}, x is a "
            f"{kind.name}. Use arrays of one library: konv returns what it is given."
        )
    views: dict[str, Any] = {}
    back: Back | None = None
    for name, a in names.items():
        found = from_dlpack(a)
        if found is None:
            raise TypeError(
                f"{name} is a {type(a).__name__}; konv takes NumPy arrays, PyTorch CPU tensors and "
                f"arrays that speak DLPack. Use numpy.asarray({name})."
            )
        views[name] = found[0]
        back = back or found[1]
    if out is not None:
        raise TypeError("out works with NumPy arrays and PyTorch tensors only. Leave it out.")
    return [views.get(name) for name in every], back
