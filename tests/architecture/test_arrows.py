"""Imports go downwards only, and each dependency stays in its place."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from architecture.source import (
    FILES,
    PACKAGE,
    Import,
    imports,
    imports_in,
    part_of,
    target_part,
    tree_of,
)

# From the bottom up. A part imports from the rows below its own and from within itself, no more.
ROWS: tuple[tuple[str, frozenset[str]], ...] = (
    ("L0", frozenset({"errors", "log"})),
    ("L0", frozenset({"geometry", "target"})),
    ("L0", frozenset({"plan"})),
    ("L1", frozenset({"reference", "llvm"})),
    ("L1", frozenset({"rounding"})),
    ("L2", frozenset({"kernels", "gpu"})),
    ("L3", frozenset({"runtime"})),
    ("L4", frozenset({"arrays", "pair"})),
    ("L4", frozenset({"checks"})),
    ("L4", frozenset({"request", "keys", "foreign"})),
    ("L4", frozenset({"layer"})),
    ("L4", frozenset({"dispatch", "prepared"})),
    ("L4", frozenset({"functional", "gradient"})),
    ("L5", frozenset({"nn", "onnx"})),
    ("L6", frozenset({"analyze", "bench", "models", "tiling"})),
    ("L7", frozenset({"web"})),
    ("L7", frozenset({"cli", "__main__"})),
)
ROW = {part: number for number, (_, parts) in enumerate(ROWS) for part in parts}
LEVEL = {part: level for level, parts in ROWS for part in parts}

# The one arrow that goes up, and only inside a function: a tensor that needs a gradient.
UPWARDS = {("dispatch", "nn")}

# Who may import what; `late` means inside functions only. What stands here in no row is forbidden.
NOW, LATE = False, True
THIRD_PARTY: dict[str, dict[str, bool]] = {
    "llvmlite": {"llvm": NOW},
    "numpy": {
        **dict.fromkeys(("reference", "rounding", "runtime"), NOW),
        **dict.fromkeys(("arrays", "checks", "request", "keys", "dispatch", "prepared"), NOW),
        **dict.fromkeys(("nn", "onnx", "analyze", "bench", "models", "tiling", "web"), NOW),
        "cli": LATE,
    },
    "torch": {"nn": NOW, "models": NOW, "analyze": LATE, "bench": LATE, "cli": LATE},
    "onnx": {"onnx": NOW, "bench": LATE},
    **{key: {"bench": LATE} for key in ("jax", "ncnn", "onnxruntime", "openvino")},
    "dask": {"tiling": NOW},
    "triton": {"gpu": NOW},
    "typer": {"cli": NOW, "__main__": NOW},
    "rich": {"cli": NOW, "analyze": NOW},
    "matplotlib": {"cli": LATE, "analyze": LATE, "bench": LATE, "web": LATE},
    "PIL": {"cli": LATE, "analyze": LATE, "bench": LATE, "web": LATE},
    "skimage": {"cli": LATE, "analyze": LATE, "bench": LATE, "web": LATE},
}

every_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))


def wrong_arrow(found: Import) -> str | None:
    """Why an import of konv by konv may not be, None if it may."""
    source, target = part_of(found.file), target_part(found.module)
    if target == source:
        return None
    if source == "__init__":
        return None if found.late else "konv resolves its names lazily"
    if target == "__init__":
        return None if LEVEL[source] in ("L6", "L7") else "a part imports parts, not the whole"
    if (source, target) in UPWARDS:
        return None if found.late else "this one only inside a function"
    if target not in ROW:
        return f"{target} has no level"
    if ROW[target] >= ROW[source]:
        return f"{LEVEL[source]} {source} may not know {LEVEL[target]} {target}"
    return None


def wrong_dependency(found: Import) -> str | None:
    """Why an import of something else may not be, None if it may."""
    source, package = part_of(found.file), found.module.split(".")[0]
    if package in sys.stdlib_module_names:
        return None
    if source not in THIRD_PARTY.get(package, {}):
        return f"{source} does without {package}"
    if THIRD_PARTY[package][source] is LATE and not found.late:
        return "only inside a function"
    return None


@every_file
def test_imports_go_downwards(path: Path) -> None:
    assert part_of(path) in ROW or part_of(path) == "__init__", "give this part a level in ROWS"
    wrong = [f"{i}: {why}" for i in imports(path) if _ours(i) and (why := wrong_arrow(i))]
    assert not wrong, "\n".join(wrong)


@every_file
def test_dependencies_stay_in_their_place(path: Path) -> None:
    wrong = [f"{i}: {why}" for i in imports(path) if not _ours(i) and (why := wrong_dependency(i))]
    assert not wrong, "\n".join(wrong)


@every_file
def test_products_of_matrices_are_our_own(path: Path) -> None:
    """No BLAS and no einsum, but in the reference, which defines what is right."""
    if part_of(path) == "reference":
        return
    assert not list(borrowed_products(tree_of(path)))


def test_the_reference_is_where_the_products_are() -> None:
    """So the test above can fail."""
    assert list(borrowed_products(tree_of(PACKAGE / "reference.py")))


def borrowed_products(tree: ast.Module) -> Iterator[str]:
    """Uses of NumPy's matrix products: by name, as a method, imported, as an operator."""
    names = {"dot", "vdot", "inner", "matmul", "einsum", "tensordot", "convolve", "correlate"}
    methods = {"dot", "matmul", "einsum", "tensordot"}
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.MatMult):
            yield f"line {node.lineno}: @"
        elif isinstance(node, ast.Attribute):
            numpy = isinstance(node.value, ast.Name) and node.value.id in ("np", "numpy")
            if node.attr in (names if numpy else methods):
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("numpy"):
            yield from (f"line {node.lineno}: {a.name}" for a in node.names if a.name in names)


def _ours(found: Import) -> bool:
    return found.module.split(".")[0] == "konv"


@pytest.mark.parametrize(
    ("part", "code", "reason"),
    [
        ("geometry/new.py", "import konv.kernels", "may not know"),
        ("geometry/new.py", "from konv import runtime", "may not know"),
        ("geometry/new.py", "import konv", "not the whole"),
        ("cli/new.py", "from konv import __version__", None),
        ("dispatch.py", "import konv.nn", "only inside"),
        ("dispatch.py", "def f():\n    from konv.nn import ops", None),
        ("arrays.py", "def f():\n    import konv.nn", "may not know"),
        ("arrays.py", "import importlib\nimportlib.import_module('konv.cli')", "may not know"),
        ("kernels/new.py", "from konv.llvm import Module", None),
        ("llvm/new.py", "from konv.kernels import direct", "may not know"),
        ("geometry/new.py", "import numpy", "does without"),
        ("runtime/new.py", "import llvmlite.binding", "does without"),
        ("runtime/new.py", "import numpy as np", None),
        ("cli/new.py", "import torch", "only inside"),
        ("cli/new.py", "def f():\n    import torch", None),
        ("cli/new.py", "import seaborn", "does without"),
        ("plan.py", "if TYPE_CHECKING:\n    from konv.llvm import Module", None),
    ],
)
def test_these_rules_can_fail(part: str, code: str, reason: str | None) -> None:
    """The rules, on imports made up for the purpose."""
    found = imports_in(ast.parse(code), PACKAGE / part)
    whys = [why for i in found if (why := wrong_arrow(i) if _ours(i) else wrong_dependency(i))]
    assert len(whys) == (reason is not None)
    assert not whys or reason in whys[0]
