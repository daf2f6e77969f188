"""What a bug report needs to say: versions, machine, threads, cache, settings, and a self-test.

Each part is found out by itself and imports what it asks, so that a part that fails - which may be
the bug - is reported, and so are the others.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from konv.geometry import Conv
from konv.runtime import store, tuned

PACKAGES = ("numpy", "llvmlite", "typer", "torch", "matplotlib", "pillow", "scikit-image")
SETTINGS = ("KONV_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_")

SELF_TEST = {
    "ordinary": "conv2d 1x8x13x11 o16 k3 s2 p1",
    "transposed": "tconv2d 1x8x7x6 o12 k4 s2 p1",
    "dilated": "conv2d 1x8x13x11 o16 k3 p2 d2",
    "grouped": "conv2d 2x8x13x11 o16 k3 p1 g2",
    "depthwise": "conv2d 1x24x13x11 o24 k3 p1 g24",
    "pointwise": "conv2d 1x24x7x5 o40 k1",
    "1d": "conv1d 2x8x50 o16 k5 p2 reflect",
    "3d": "conv3d 1x4x5x6x7 o8 k3 p1",
    "float64": "conv2d 1x8x9x9 o16 k3 p1 f64",
    "float16": "conv2d 1x8x9x9 o16 k3 p1 f16",
}
"""One small convolution of each kind, by what it stands for."""


def report(measured: bool = True) -> dict[str, Any]:
    """Return the parts of the report by name; one that failed is {"error": why}.

    versions, system, processor, threads, cache, settings, self_test (kind -> "ok" or what is
    wrong), and where `measured`, roofline.
    """
    parts: dict[str, Callable[[], Any]] = {
        "versions": versions,
        "system": system,
        "processor": processor,
        "threads": threads,
        "cache": cache,
        "settings": settings,
        "self_test": self_test,
    }
    if measured:
        parts["roofline"] = roofline
    return {name: _tried(part) for name, part in parts.items()}


def _tried(part: Callable[[], Any]) -> Any:
    try:
        return part()
    except Exception as error:  # noqa: BLE001 - whatever is wrong is what the report is for
        return {"error": f"{type(error).__name__}: {error}"}


def versions() -> dict[str, str]:
    """Return the versions of konv, Python, LLVM and the packages konv works with."""
    from konv.llvm.host import versions as of_llvm

    konv = sys.modules["konv"].__version__
    found = {"konv": konv, "python": platform.python_version(), "llvm": of_llvm()}
    return found | {name: _installed(name) for name in PACKAGES}


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def system() -> dict[str, str]:
    """Return operating system, C library and Python implementation."""
    return {
        "platform": platform.platform(),
        "libc": " ".join(platform.libc_ver()).strip() or "unknown",
        "python": platform.python_implementation(),
    }


def processor() -> dict[str, Any]:
    """Return the processor as the system and as LLVM name it, its registers and its caches."""
    from konv.llvm import detect

    target = detect()
    return {
        "name": _model() or platform.processor() or "unknown",
        "llvm_name": target.cpu,
        "triple": target.triple,
        "vector_bytes": target.vector_bytes,
        "registers": target.registers,
        "caches": _caches(),
        "features": list(target.features),
    }


def _model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return ""
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "")


def _caches() -> dict[str, str]:
    """Return the caches of the first core, as Linux tells their sizes."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = (
                (folder / name).read_text(encoding="utf-8").strip()
                for name in ("level", "type", "size")
            )
        except (OSError, ValueError):
            continue
        if kind != "Instruction":
            found[f"L{level}"] = size
    return found


def threads() -> dict[str, Any]:
    """Return how many threads konv uses, how many cores there are, and whose threads they are."""
    from konv.runtime.cores import allowed
    from konv.runtime.threads import get_num_threads, team

    crew = team()
    pool = "OpenMP" if crew.words[1] else "konv's own"
    return {
        "threads": get_num_threads(),
        "allowed": allowed(),
        "cores": os.cpu_count(),
        "pool": pool if crew.threads > 1 else "none: one thread",
    }


def cache() -> dict[str, Any]:
    """Return where the cache of compiled kernels is and what it holds."""
    folder, entries = store.folder(), store.entries()
    found = {entry.name for entry in tuned.entries()}
    return {
        "folder": str(folder) if folder else None,
        "exists": bool(folder and folder.is_dir()),
        "writable": bool(folder and os.access(_nearest(folder), os.W_OK)),
        "kernels": len(entries) - len(found),
        "tuned": len(found),
        "unsound": sum(not entry.sound for entry in entries),
        "bytes": store.size(),
        "limit": store.limit(),
    }


def _nearest(folder: Path) -> Path:
    """Return the folder, or the one it would be made in."""
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def roofline() -> dict[str, Any]:
    """Return what this machine can do at best."""
    from konv.runtime.roofline import measure

    return asdict(measure())


def settings() -> dict[str, str]:
    """Return the environment variables that change what konv does or how many threads run."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(SETTINGS)}


def self_test() -> dict[str, str]:
    """Compute one small convolution of each kind and compare: "ok", or what is wrong with it."""
    return {name: _test(Conv.parse(line)) for name, line in SELF_TEST.items()}


def _test(conv: Conv) -> str:
    from konv import functional
    from konv.analyze.layer import arguments, function_name
    from konv.reference import im2col
    from konv.rounding import tolerance

    rng = np.random.default_rng(0)
    x = rng.standard_normal(conv.in_shape).astype(conv.dtype)
    weight = rng.standard_normal(conv.weight_shape).astype(conv.dtype)
    keywords: dict[str, Any] = {**arguments(conv)}
    if conv.mode != "zeros":
        keywords["padding_mode"] = conv.mode
    try:
        y = getattr(functional, function_name(conv))(x, weight, **keywords)
    except Exception as error:  # noqa: BLE001 - as above
        return f"{conv}: {type(error).__name__}: {error}"
    wrong = np.abs(y - im2col(conv, x, weight))
    if (wrong <= tolerance(conv, x, weight)).all():
        return "ok"
    return f"{conv}: wrong by up to {wrong.max():.3g}"
