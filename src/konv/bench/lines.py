"""The lines to measure: read from files or written out, and chosen from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from konv.errors import ProblemError
from konv.geometry import Conv, read_problems

Problem = tuple[str, Conv]  # its name, or its text where it has none


def read(arguments: Sequence[str]) -> list[Problem]:
    """Return the named convolutions of arguments: files of them, or one written out.

    >>> [name for name, _ in read(["conv2d 1x3x9x9 o4 k3  # mine"])]
    ['mine']
    """
    problems: list[Problem] = []
    for argument in arguments:
        path = Path(argument)
        if " " not in argument and not path.is_file():
            raise ProblemError(
                f"{argument!r} is neither a file nor a convolution. Name a list such as "
                f"problems/article.txt, or write one: 'conv2d 1x64x56x56 o64 k3 p1'."
            )
        problems += read_problems(path.read_text("utf-8") if path.is_file() else argument)
    return problems


def select(problems: Sequence[Problem], only: str = "", batch: int | None = None) -> list[Problem]:
    """Return those whose name or text contains `only`, at another batch size if one is given.

    >>> select(read(["conv2d 1x3x9x9 o4 k3"]), batch=8)[0][0]
    'conv2d 8x3x9x9 o4 k3'
    """
    wanted = only.lower()
    chosen = [(label, conv) for label, conv in problems if wanted in f"{label}\n{conv}".lower()]
    if not chosen:
        raise ProblemError(
            f"only={only!r} leaves none of {len(problems)} lines. "
            f"Use a part of a line's name or text."
        )
    if batch is None:
        return chosen
    return [
        (str(conv.with_batch(batch)) if label == str(conv) else label, conv.with_batch(batch))
        for label, conv in chosen
    ]
