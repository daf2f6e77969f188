"""konv cache: what the cache of machine code holds, and what konv tune has found; empty it; fill it
ahead of time.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from konv.cli.examples import examples

if TYPE_CHECKING:
    from konv.geometry import Conv
    from konv.runtime.store import Entry

SHOWN = 20  # entries
DAYS, HOURS, MINUTES = 86_400, 3_600, 60  # seconds


def register(app: typer.Typer) -> None:
    """Add the command and its three verbs."""
    group = typer.Typer(
        help="See, empty or fill the cache of compiled kernels.",
        rich_markup_mode=None,
        no_args_is_help=True,
    )
    group.command(epilog=examples("konv cache show", "konv cache show --json"))(show)
    group.command(epilog=examples("konv cache clear"))(clear)
    group.command(
        epilog=examples(
            'konv cache warm "conv2d 1x64x56x56 o128 k3 s2 p1"',
            "konv cache warm problems/article.txt",
        )
    )(warm)
    app.add_typer(group, name="cache")


def show(json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False) -> None:
    """Show where the cache is, its size, and what it holds."""
    from konv.cli.page import Page, print_json
    from konv.runtime import store

    folder, entries = store.folder(), store.entries()
    if json:
        print_json({
            "folder": str(folder) if folder else None,
            "bytes": store.size(), "limit": store.limit(),
            "entries": [_as_json(entry) for entry in entries],
        })  # fmt: skip
        return
    page = Page()
    page.heading("Cache of compiled kernels")
    page.pairs(state())
    now = time()
    rows = [(_what(entry), f"{entry.bytes:,}", _ago(now - entry.used)) for entry in entries[:SHOWN]]
    if rows:
        page.table(("kernel", "bytes", "used"), rows)
    if len(entries) > SHOWN:
        page.text(f"and {len(entries) - SHOWN} more: konv cache show --json lists all")


def state() -> list[tuple[str, object]]:
    """Return the cache in words: its folder, how many files, how many bytes."""
    from konv.analyze.units import size
    from konv.runtime import store, tuned

    folder = store.folder()
    if folder is None:
        return [("folder", "none: the cache is off (KONV_CACHE_DIR), or there is no home")]
    entries, found = store.entries(), len(tuned.entries())
    bad = sum(not entry.sound for entry in entries)
    return [
        ("folder", str(folder) + ("" if folder.is_dir() else " (not made yet)")),
        ("kernels", f"{len(entries) - found}"),
        ("tuned", f"{found}: choices that konv tune has made here" if found else "0"),
        *([("broken", f"{bad} files cannot be believed")] if bad else []),
        ("size", f"{size(store.size())} of at most {size(store.limit())}"),
    ]


def _as_json(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name, "what": entry.what, "bytes": entry.bytes,
        "used": entry.used, "sound": entry.sound,
    }  # fmt: skip


def _what(entry: Entry) -> str:
    return (entry.what or entry.name[:12]) if entry.sound else f"{entry.name[:12]} (not sound)"


def _ago(seconds: float) -> str:
    for unit, name in ((DAYS, "d"), (HOURS, "h"), (MINUTES, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return "now"


def clear() -> None:
    """Delete the compiled kernels, and what konv tune has found.

    Kernels are compiled anew when they are needed; konv tune --forget deletes its findings alone.
    """
    from konv.analyze.units import size
    from konv.runtime import store

    before = store.size()
    typer.echo(f"{store.clear()} files deleted, {size(before - store.size())}.")


def warm(
    what: Annotated[
        list[str], typer.Argument(help="Files of problems, or single problems.", show_default=False)
    ],
) -> None:
    """Compile the kernels of a list of problems.

    So that no first call waits for them; in both memory layouts. A file holds one problem a line,
    as problems/*.txt do; a problem is written as for konv explain, in quotes.
    """
    from konv.cli.page import progress
    from konv.runtime import store

    plans = _plans([conv for text in what for conv in _problems(text)])
    with progress(f"compiling {len(plans)} kernels"):
        from konv.runtime.code import digests, kernel
        from konv.runtime.threads import team

        digests()  # these two any first call needs, whatever its layer
        team()
        before = {entry.name for entry in store.entries()}
        for plan in plans:
            kernel(plan)
    new = {entry.name for entry in store.entries()} - before
    typer.echo(
        f"{len(plans)} kernels, {len(new)} of them compiled now. Cache: {store.folder() or 'off'}."
    )


def _problems(text: str) -> list[Conv]:
    """Return the problems of a file, or the one problem that the text is."""
    from konv.errors import ProblemError
    from konv.geometry import Conv, read_problems

    path = Path(text)
    if not path.is_file():
        if path.suffix == ".txt":
            raise ProblemError(f"there is no file {text}. Give the path of a list of problems.")
        return [Conv.parse(text)]
    try:
        return [conv for _, conv in read_problems(path.read_text(encoding="utf-8"))]
    except ProblemError as error:
        raise ProblemError(f"{text}: {error}") from None


def _plans(convs: list[Conv]) -> list[Any]:
    """Return the plans these layers need at any image size, each code once."""
    from konv.analyze.explain import LAYOUTS, plans_of

    every = (plans_of(conv, layout) for conv in convs for layout in LAYOUTS)
    return list(dict.fromkeys(replace(plan, alignment=1) for plans in every for plan in plans))
