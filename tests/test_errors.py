"""The errors are caught by what users already write, and their tree is as drawn."""

from __future__ import annotations

import pytest

from konv import errors
from konv.errors import KonvError, OutOfMemoryError, ProblemError, UnsupportedError
from konv.geometry import Conv


@pytest.mark.parametrize("caught_as", [ProblemError, KonvError, ValueError, RuntimeError])
def test_a_problem_is_caught_by_users_of_numpy_and_of_pytorch(caught_as: type[Exception]) -> None:
    with pytest.raises(caught_as):
        Conv.of((1, 1, 2), 1, kernel=3)


@pytest.mark.parametrize(
    ("error", "caught_as"),
    [(UnsupportedError, NotImplementedError), (OutOfMemoryError, MemoryError)],
)
def test_other_errors_are_caught_by_their_built_in(
    error: type[Exception], caught_as: type[Exception]
) -> None:
    with pytest.raises(caught_as, match="why"):
        raise error("why")


def test_the_tree_drawn_is_the_tree() -> None:
    drawn = errors.__doc__ or ""
    for name in errors.__all__:
        error = getattr(errors, name)
        assert issubclass(error, KonvError)
        (line,) = (line for line in drawn.splitlines() if f"─ {name} " in line)
        for base in error.__bases__:
            assert base.__name__ in line or base in (KonvError, Exception)
