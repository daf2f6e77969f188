"""What torch.jit.script is told: it compiles a layer's Python, and konv's is not made for that."""

from __future__ import annotations

from typing import NoReturn

from konv.errors import UnsupportedError


class Unscripted:
    """A layer that torch.jit.script cannot compile, and that says so before anything was changed.

    PyTorch asks by this name for a stand-in. To give it PyTorch's own layer would do, but PyTorch
    would put that into the user's model too, in the place of konv's.
    """

    def __prepare_scriptable__(self) -> NoReturn:
        raise UnsupportedError(
            f"torch.jit.script compiles Python code, and that of {type(self).__name__} is konv's. "
            f"Use torch.jit.trace or torch.export.export, which write down PyTorch's own "
            f"operators, or script konv.restore(copy.deepcopy(model)) of an accelerated model."
        )
