"""The source of konv as the architecture tests see it: files, parts, imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "konv"
FILES = tuple(sorted(PACKAGE.rglob("*.py")))


@dataclass(frozen=True)
class Import:
    """`module` is imported in `file`; `late` if inside a function."""

    file: Path
    line: int
    module: str
    late: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.module}"


def part_of(path: Path) -> str:
    """The file or folder right under src/konv: `geometry`, `cli`; `__init__` for the whole."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def target_part(module: str) -> str:
    """The same for the name of a module of konv.

    >>> target_part("konv.geometry.axis"), target_part("konv")
    ('geometry', '__init__')
    """
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[Import]:
    """Every import that can happen when the code runs; those for type checkers alone cannot."""
    yield from imports_in(tree_of(path), path)


def imports_in(tree: ast.Module, path: Path) -> Iterator[Import]:
    for node, late in _nodes(tree, late=False):
        for module in _modules(node):
            yield Import(path, node.lineno, module, late)


def _nodes(node: ast.AST, late: bool) -> Iterator[tuple[ast.stmt | ast.expr, bool]]:
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        children = node.orelse
    else:
        children = list(ast.iter_child_nodes(node))
    late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in children:
        if isinstance(child, ast.stmt | ast.expr):
            yield child, late
        yield from _nodes(child, late)


def _modules(node: ast.stmt | ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        assert node.module
        for alias in node.names:
            yield _full_name(node.module, alias.name)
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = ast.unparse(node.func)
        if called.endswith("import_module") or called == "__import__":
            yield str(node.args[0].value)


def _full_name(module: str, name: str) -> str:
    """`from konv import errors` imports konv.errors, `from konv.errors import KonvError` too."""
    inside = PACKAGE.joinpath(*module.split(".")[1:], name)
    is_module = module.split(".")[0] == "konv" and (
        inside.is_dir() or inside.with_suffix(".py").is_file()
    )
    return f"{module}.{name}" if is_module else module
