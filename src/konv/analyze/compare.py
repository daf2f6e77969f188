"""Five kinds of convolution on one photograph: counted, measured, ready to be printed or drawn."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import konv.analyze.timing as timing
from konv.analyze.concepts import CONVENTION
from konv.analyze.filters import Array
from konv.analyze.layer import Layer, code
from konv.analyze.layers import Settings, layers
from konv.analyze.photograph import Photograph, lift
from konv.analyze.timing import Times
from konv.runtime import memory
from konv.runtime.roofline import Roofline
from konv.runtime.roofline import measure as measure_roofline


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare` found; `times` and `roofline` are None where nothing was measured."""

    photograph: Photograph
    settings: Settings
    image: Array
    channels: str
    layers: tuple[Layer, ...]
    times: tuple[Times, ...] | None
    roofline: Roofline | None


def compare(
    photograph: Photograph, settings: Settings, seconds: float = timing.SECONDS
) -> Comparison:
    """Return the five layers on a photograph; `seconds` is what measuring each may take, 0 none."""
    made = layers(settings, *photograph.pixels.shape[:2])
    for layer in made:
        memory.require(2 * layer.bytes, f"the {layer.kind} layer in two layouts")
    image, channels = lift(photograph, settings.in_channels)
    times = roofline = None
    if seconds:
        times = tuple(timing.measure(layer, image, seconds) for layer in made)
        roofline = measure_roofline()
    return Comparison(photograph, settings, image, channels, made, times, roofline)


def flops_a_second(layer: Layer, seconds: float) -> float:
    """Return the speed by nominal MACs, as others state theirs."""
    return 2 * layer.macs / seconds


def as_json(found: Comparison) -> dict[str, Any]:
    """Return everything as numbers, lists and words; these keys stay.

    photograph  name, original_size, size (height, width), channels: how they were made
    settings    the arguments, null where derived
    convention  how parameters, MACs and memory are counted
    roofline    peak_flops, bandwidth (bytes a second), threads, dtype; null if not measured
    layers      a list: kind, title, convs (in konv's notation), code, notes, formula, symbols,
                worked, filters (of each output), in_shape, out_shape, params, macs, exact_macs,
                receptive_field, memory_bytes; and, null if not measured: checked (share of the
                outputs compared with the reference), by layout ("contiguous", "channels_last")
                seconds, flops_a_second, share_of_peak, and where PyTorch is installed
                torch_seconds, times_torch (how many times as fast as PyTorch konv is)
    """
    times = found.times or (None,) * len(found.layers)
    rows = zip(found.layers, times, strict=True)
    return {
        "photograph": {
            "name": found.photograph.name,
            "original_size": list(found.photograph.original),
            "size": list(found.image.shape[2:]),
            "channels": found.channels,
        },
        "settings": asdict(found.settings),
        "convention": CONVENTION,
        "roofline": asdict(found.roofline) if found.roofline else None,
        "layers": [_layer(layer) | _speed(layer, took, found.roofline) for layer, took in rows],
    }


def _layer(layer: Layer) -> dict[str, Any]:
    return {
        "kind": layer.kind,
        "title": layer.concept.title,
        "convs": [str(conv) for conv in layer.convs],
        "code": code(layer),
        "notes": list(layer.notes),
        "formula": [conv.formula().splitlines() for conv in layer.convs],
        "symbols": asdict(layer.concept.symbols),
        "worked": asdict(layer.worked()),
        "filters": list(layer.filters),
        "in_shape": list(layer.in_shape),
        "out_shape": list(layer.out_shape),
        "params": layer.params,
        "macs": layer.macs,
        "exact_macs": layer.exact_macs,
        "receptive_field": list(layer.receptive_field),
        "memory_bytes": layer.bytes,
    }


def _speed(layer: Layer, took: Times | None, roofline: Roofline | None) -> dict[str, Any]:
    if took is None or roofline is None:
        names = ("checked", "seconds", "flops_a_second", "share_of_peak")
        return dict.fromkeys((*names, "torch_seconds", "times_torch"))
    speed = {layout: flops_a_second(layer, seconds) for layout, seconds in took.konv.items()}
    return {
        "checked": took.checked,
        "seconds": took.konv,
        "flops_a_second": speed,
        "share_of_peak": {layout: s / roofline.peak_flops for layout, s in speed.items()},
        "torch_seconds": took.torch,
        "times_torch": times_torch(took),
    }


def times_torch(took: Times) -> dict[str, float] | None:
    """Return how many times as fast as PyTorch konv is, by layout."""
    if took.torch is None:
        return None
    return {layout: took.torch[layout] / seconds for layout, seconds in took.konv.items()}
