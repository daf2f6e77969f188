"""The geometry of convolutions: integers only, standard library only."""

from __future__ import annotations

from konv.geometry.axis import Axis
from konv.geometry.conv import Conv
from konv.geometry.padding import MODES, Mode
from konv.geometry.phase import Phase
from konv.geometry.problems import read_problems

__all__ = ["MODES", "Axis", "Conv", "Mode", "Phase", "read_problems"]
