"""A real photograph as a convolution takes it: (1, channels, height, width), float32, 0 to 1.

The photographs that have a name here ship inside the scikit-image wheel and are read from there, as
files: nothing is ever downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from konv.analyze.filters import PATTERNS, bank, channel_mixes
from konv.errors import ProblemError, UnsupportedError
from konv.functional import conv2d
from konv.runtime import memory

Array = NDArray[Any]

SHIPPED = {"astronaut": (0.205, 0.395), "chelsea": (0.385, 0.4), "coffee": (0.49, 0.52)}
"""Name, and the place (share of height, of width) that figures look at closely: an eye, an edge."""
A_PIXEL = 24  # bytes: three float32, and what it is read and resized through
LIFT = 5  # taps of the filters that make further channels


@dataclass(frozen=True, slots=True)
class Photograph:
    """`pixels`: (height, width, 3), float32, 0 to 1; `focus`: the place to look at closely.

    The focus is given as shares of height and width.
    """

    name: str
    pixels: Array
    original: tuple[int, int]
    focus: tuple[float, float]


def missing(package: str, what: str) -> UnsupportedError:
    """Return the error that says which extra brings a package."""
    return UnsupportedError(
        f'{what} needs {package}, which is not installed. Use: pip install "konv[viz]"'
    )


def read(name: str, size: int) -> Photograph:
    """Return a shipped photograph by its name, or any image file by its path.

    `size`: pixels of its longer side, to which it is reduced or enlarged; 0 leaves it as it is.
    UnsupportedError where Pillow or scikit-image is missing, ProblemError where there is no image.
    """
    try:
        from PIL import Image
    except ImportError:
        raise missing("Pillow", "reading a photograph") from None
    path = _shipped(name) if name in SHIPPED else Path(name)
    try:
        with Image.open(path) as opened:
            image = _upright(opened).convert("RGB")
    except (OSError, ValueError) as error:
        raise ProblemError(
            f"image={name!r} cannot be read: {_reason(error)}. Use the path of a PNG or JPEG file, "
            f"or one of {', '.join(SHIPPED)}."
        ) from None
    original = (image.height, image.width)
    if size:
        scale = size / max(original)
        height, width = (max(1, round(side * scale)) for side in original)
        memory.require(A_PIXEL * height * width, f"a photograph of {height} x {width} pixels")
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    pixels = np.array(image, np.float32)
    pixels /= 255
    return Photograph(name, pixels, original, SHIPPED.get(name) or strongest_edge(pixels))


def strongest_edge(pixels: Array) -> tuple[float, float]:
    """Return where brightness changes most from left to right, away from the border."""
    edges = np.abs(np.diff(pixels.mean(axis=2), axis=1, append=0))
    height, width = edges.shape
    middle = edges[height // 4 : height - height // 4, width // 4 : width - width // 4]
    row, column = np.unravel_index(int(middle.argmax()), middle.shape)
    return (height // 4 + int(row) + 0.5) / height, (width // 4 + int(column) + 0.5) / width


def _upright(image: Any) -> Any:
    """Turn a photograph as its camera says it was held."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).rstrip(".")


def _shipped(name: str) -> Path:
    """Return the file inside the scikit-image package; without importing it, which takes long."""
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise UnsupportedError(
            f"the photograph {name!r} comes with scikit-image, which is not installed. "
            f'Use: pip install "konv[viz]", or --image with a photograph of your own.'
        )
    return Path(next(iter(spec.submodule_search_locations))) / "data" / f"{name}.png"


def lift(photograph: Photograph, channels: int) -> tuple[Array, str]:
    """Return the photograph in any number of channels, (1, channels, height, width), and how.

    Three are red, green and blue; fewer are mixes of these; more are the three and a bank of fixed
    filters over them.
    """
    rgb = np.ascontiguousarray(photograph.pixels.transpose(2, 0, 1)[None])
    if channels == 3:
        return rgb, "red, green, blue"
    if channels < 3:
        mixes = channel_mixes(3)[:channels, :, None, None].astype(np.float32)
        names = ("brightness", "red - blue")[:channels]
        return conv2d(rgb, mixes), ", ".join(names)
    more = channels - 3
    filtered = conv2d(rgb, bank(more, 3, LIFT), padding=LIFT // 2, padding_mode="replicate")
    how = (
        f"red, green, blue, and {more} filtered maps: {max(PATTERNS, -(-more // 3))} patterns of "
        f"{LIFT} x {LIFT} (blur, centre-surround, edges, lines) times brightness, red - blue, "
        f"magenta - green"
    )
    return np.concatenate([rgb, filtered], axis=1), how
