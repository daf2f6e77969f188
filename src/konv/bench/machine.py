"""Where a benchmark ran, in words: without them its numbers mean nothing elsewhere."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from konv import __version__, llvm
from konv.runtime.cores import allowed

PACKAGES = ("numpy", "llvmlite", "torch")


def describe(libraries: Iterable[str] = ()) -> dict[str, str]:
    """Return the processor as LLVM sees it, cores, vectors, caches, system and versions.

    Of `libraries` those that are packages get their versions told too.
    """
    target = llvm.detect()
    lanes = f"{target.vector_bytes * 8} bits, {target.registers} registers"
    return {
        "processor": f"{_model()} ({target.cpu} to LLVM)",
        "cores": f"{allowed()} of {os.cpu_count()}",
        "vectors": lanes,
        "caches": _caches() or "not told",
        "memory": _memory() or "not told",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": ", ".join([f"Python {platform.python_version()}", *_versions(libraries)]),
    }


def _versions(libraries: Iterable[str]) -> list[str]:
    found = [f"konv {__version__}"]
    for package in dict.fromkeys((*PACKAGES, *libraries)):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found += [f"no {package}"] if package in PACKAGES else []
    return found


def _model(path: Path = Path("/proc/cpuinfo")) -> str:
    """Return what the processor calls itself."""
    for line in _text(path).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _caches(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> str:
    """Return the data caches that the first core sees, such as "L1 32K, L2 512K, L3 32M"."""
    found = []
    for folder in sorted(root.glob("index*")):
        level, kind, size = (_text(folder / file).strip() for file in ("level", "type", "size"))
        if size and kind != "Instruction":
            kilobytes = size.removesuffix("K")
            if kilobytes.isdigit() and int(kilobytes) % 1024 == 0 and int(kilobytes):
                size = f"{int(kilobytes) // 1024}M"
            found.append(f"L{level} {size}")
    return ", ".join(found)


def _memory() -> str:
    """Return the memory of the machine."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return ""
    return f"{size / 2**30:.0f} GiB"


def _text(path: Path) -> str:
    """Return what a file says; a missing one says nothing."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
