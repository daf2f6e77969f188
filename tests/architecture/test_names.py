"""The public names of konv: these and no others, each there."""

from __future__ import annotations

import pytest

import konv

PUBLIC = (
    "Axis",
    "Conv",
    "KonvError",
    "OutOfMemoryError",
    "Prepared",
    "ProblemError",
    "UnsupportedError",
    "accelerate",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "get_num_threads",
    "precision",
    "prepare",
    "restore",
    "set_num_threads",
    "solve",
    "tune",
    "weight_gradient",
)


def test_these_and_no_others() -> None:
    assert sorted(konv.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_each_resolves_and_is_listed(name: str) -> None:
    assert getattr(konv, name).__doc__
    assert name in dir(konv)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="conv4d"):
        konv.conv4d  # noqa: B018
