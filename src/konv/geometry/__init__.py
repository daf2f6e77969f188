"""The geometry of convolutions: integers only, standard library only.

Conv   one convolution: shapes, counts, adjoints, text         Axis    one axis of it
Field  the receptive field of a chain of layers                Phase   a part without zeros
Tile   the input that a part of the output needs               solve   the formulas backwards
"""

from __future__ import annotations

from konv.geometry.axis import ONE, Axis
from konv.geometry.conv import Conv
from konv.geometry.field import Field, Reach, chain, period, reach, sources, why_gridding
from konv.geometry.padding import MODES, Mode
from konv.geometry.phase import Phase
from konv.geometry.problems import read_problems
from konv.geometry.solve import solve
from konv.geometry.tile import Tile, halo, origin_steps

__all__ = [
    "MODES",
    "ONE",
    "Axis",
    "Conv",
    "Field",
    "Mode",
    "Phase",
    "Reach",
    "Tile",
    "chain",
    "halo",
    "origin_steps",
    "period",
    "reach",
    "read_problems",
    "solve",
    "sources",
    "why_gridding",
]
