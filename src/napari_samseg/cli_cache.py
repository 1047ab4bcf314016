"""The commands ``napari-samseg cache ...``: what is in a store of embeddings."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from napari_samseg.cli_options import Planes, read_range
from napari_samseg.cli_terminal import output, say, show_progress
from napari_samseg.core.amounts import count_things
from napari_samseg.core.errors import SettingsError

if TYPE_CHECKING:
    from napari_samseg.core.cache.foreign import ForeignEmbeddings
    from napari_samseg.core.cache.health import EntryReport
    from napari_samseg.core.cache.manage import EntrySummary
    from napari_samseg.core.cache.recipe import StackRecipe
    from napari_samseg.core.cache.zarr_store import EmbeddingStore

__all__ = ["cache_app", "parse_size"]

cache_app = typer.Typer(
    no_args_is_help=True, help="List, verify, repair, delete, export embeddings."
)

# Bytes by the letter of a unit; the "i" of KiB makes it 1024.
POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
SIZE = re.compile(r"([\d.]+)\s*([KMGT]?)(I?)B?", re.IGNORECASE)
# Digits of a digest that are shown; each entry can be named by fewer.
SHORT = 8

Store = Annotated[
    str,
    typer.Argument(
        help="Folder, .zip file or URL; the folder of the cache if left out.",
        metavar="[STORE]",
        show_default=False,
    ),
]
Entry = Annotated[
    str, typer.Option("--entry", help="Only this entry: the first digits of its name.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@cache_app.command("list")
def print_entries(store: Store = "") -> None:
    """List the stacks whose embeddings are kept, the one used last first."""
    from napari_samseg.core.cache.manage import list_entries

    if _is_empty(store):
        return
    with _open(store) as opened:
        entries = show_progress(list_entries(opened))
    _print_entries(entries)
    size = decimal(sum(entry.nbytes for entry in entries))
    say(f"{size} in {opened.location}")


@cache_app.command("info")
def print_store(store: Store = "") -> None:
    """Say what a store holds and how it was made; other programs' files too."""
    from napari_samseg.core.cache.foreign import open_foreign
    from napari_samseg.core.cache.keys import local_path
    from napari_samseg.core.cache.manage import list_entries
    from napari_samseg.core.cache.place import free_bytes

    if _is_empty(store):
        return
    location = _location(store)
    path = local_path(location)
    foreign = None if path is None else open_foreign(path)
    if foreign is not None:
        _print_foreign(foreign)
        return
    with _open(store) as opened:
        entries = show_progress(list_entries(opened))
        free = free_bytes(opened.store)
    _print_facts(
        ("store", opened.location),
        ("entries", str(len(entries))),
        ("size", decimal(sum(entry.nbytes for entry in entries))),
        ("free", "not known" if free is None else decimal(free)),
    )
    for entry in entries:
        say("")
        say(f"entry {entry.digest}")
        if entry.recipe is None:
            say("its recipe cannot be read: napari-samseg cache verify says why")
        else:
            _print_recipe(entry.recipe, entry)


@cache_app.command("verify")
def verify_store(store: Store = "", entry: Entry = "", planes: Planes = "") -> None:
    """Read every plane and compare checksums; exit with 1 if one is off or missing."""
    from napari_samseg.core.cache.health import verify

    chosen = read_range(planes)
    with _open(store) as opened:
        report = show_progress(verify(opened, _digest(opened, entry), chosen))
    for item in report.entries:
        _print_report(item)
    if not report.is_sound:
        say(
            "`napari-samseg embed` encodes what is missing, and `napari-samseg cache "
            "repair` sets aside what is damaged"
        )
        raise typer.Exit(1)
    say(f"{opened.location}: nothing is wrong or missing")


@cache_app.command("repair")
def repair_store(store: Store = "", entry: Entry = "") -> None:
    """Set aside what is damaged, so that the next run encodes it again."""
    from napari_samseg.core.cache.health import repair

    digest = None
    if entry:
        with _open(store) as opened:
            digest = _digest(opened, entry)
    lines = show_progress(repair(_location(store), digest))
    for line in lines or ["nothing had to be done"]:
        say(line)


@cache_app.command("delete")
def delete_entries(
    store: Store = "",
    entry: Entry = "",
    everything: Annotated[
        bool, typer.Option("--all", help="Delete all entries.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Delete an entry, or all of them."""
    from napari_samseg.core.cache.manage import delete

    if bool(entry) == everything:
        raise SettingsError("Give either --entry or --all")
    with _open(store, write=True) as opened:
        digest = _digest(opened, entry)
        what = "all embeddings" if digest is None else f"entry {digest}"
        _ask(f"Delete {what} in {opened.location}?", yes)
        say(f"freed {decimal(show_progress(delete(opened, digest)))}")


@cache_app.command("prune")
def prune_store(
    max_size: Annotated[
        str, typer.Option(help="What may be left, such as 5GB or 500MB.")
    ],
    store: Store = "",
    yes: Yes = False,
) -> None:
    """Delete the entries used least recently until the store is small enough."""
    from napari_samseg.core.cache.manage import list_entries, plan_prune, prune

    max_bytes = parse_size(max_size)
    deleted: list[str] = []
    with _open(store, write=True) as opened:
        entries = show_progress(list_entries(opened))
        chosen = plan_prune(entries, max_bytes)
        if chosen:
            _print_entries(chosen)
            _ask(f"Delete these from {opened.location}?", yes)
            deleted = show_progress(prune(opened, [entry.digest for entry in chosen]))
    freed = sum(entry.nbytes for entry in chosen if entry.digest in deleted)
    held = sum(entry.nbytes for entry in entries)
    say(f"freed {decimal(freed)}, {decimal(held - freed)} are left")


@cache_app.command("export")
def export_store(
    out: Annotated[Path, typer.Option(help="File to write, .zip.")],
    store: Store = "",
    entry: Entry = "",
) -> None:
    """Write an entry, or all, into a zip file, which can be read as it is."""
    from napari_samseg.core.cache.manage import export_zip

    with _open(store) as opened:
        show_progress(export_zip(opened, _digest(opened, entry), out))
    say(f"wrote {out}")


# -- parts -----------------------------------------------------------------------------


def _location(store: str) -> str:
    if store:
        return store
    from napari_samseg.core.cache.place import default_store_folder

    return str(default_store_folder())


def _is_empty(store: str) -> bool:
    """Say so if nothing was ever kept in the cache folder, which is no error."""
    from napari_samseg.core.cache.lookup import has_store

    location = _location(store)
    if store or has_store(location):
        return False
    say(f"nothing is kept yet in {location}")
    return True


def _open(store: str, *, write: bool = False) -> EmbeddingStore:
    from napari_samseg.core.cache.zarr_store import EmbeddingStore

    # first to read: nothing is made where nothing is
    opened = EmbeddingStore(_location(store), write=False)
    if not write:
        return opened
    opened.close()
    return EmbeddingStore(_location(store))


def _digest(store: EmbeddingStore, start: str) -> str | None:
    from napari_samseg.core.cache.manage import find_digest

    return find_digest(store, start) if start else None


def _ask(question: str, yes: bool) -> None:
    if not yes:
        typer.confirm(question, abort=True, err=True)


def parse_size(text: str) -> int:
    """Return the bytes that a text such as ``5GB`` or ``2 GiB`` means.

    Raises
    ------
    SettingsError
        If it means none.
    """
    match = SIZE.fullmatch(text.strip())
    try:
        number, letter, binary = match.groups() if match else ("", "", "")
        base = 1024 if binary else 1000
        return int(float(number) * base ** POWERS[letter.upper()])
    except ValueError as error:
        raise SettingsError(
            f"--max-size takes a size such as 5GB or 500MB, not {text!r}"
        ) from error


def _print_entries(entries: Sequence[EntrySummary]) -> None:
    table = Table(
        *("entry", "image", "model", "planes", "tiles", "storage", "size", "used"),
        box=SIMPLE,
        pad_edge=False,
    )
    for column in table.columns:
        column.no_wrap = True
    # a name may be longer than the rest, and of a time the day may stand above
    image, used = table.columns[1], table.columns[-1]
    image.no_wrap, image.overflow, image.min_width = False, "fold", 12
    used.no_wrap = False
    for entry in entries:
        recipe = entry.recipe
        if recipe is None:
            facts = ["cannot be read", "", "", "", ""]
        else:
            planes = f"{entry.planes_done}/{recipe.n_planes}"
            tiles = str(len(recipe.tiles))
            # the whole path is among the facts of `info`
            name = PurePath(recipe.image).name
            facts = [name, recipe.model, planes, tiles, recipe.storage]
        size, used = decimal(entry.nbytes), _when(entry.last_used)
        table.add_row(entry.digest[:SHORT], *map(escape, facts), size, used)
    output.print(table)


def _when(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _print_recipe(recipe: StackRecipe, entry: EntrySummary) -> None:
    y, x = recipe.plane_size
    done = entry.planes_done
    rows, columns = recipe.plane_axes
    side = "" if recipe.input_size is None else f", input {recipe.input_size}"
    shape = " x ".join(map(str, recipe.embedding_shape))
    _print_facts(
        ("image", recipe.image),
        ("planes", f"{done} of {recipe.n_planes}, {y} x {x} {recipe.dtype}"),
        ("axes", f"rows {rows}, columns {columns}"),
        ("model", f"{recipe.model}, encoder {recipe.encoder_digest}{side}"),
        ("precision", recipe.precision),
        ("contrast", ", ".join(f"{k} {v}" for k, v in recipe.preprocessing)),
        ("tiles", str(len(recipe.tiles))),
        ("features", f"{shape} {recipe.storage}"),
        ("used", _when(entry.last_used) or "not known"),
        ("made by", f"napari-samseg {recipe.plugin_version}"),
    )


def _print_foreign(foreign: ForeignEmbeddings) -> None:
    shape = " x ".join(map(str, foreign.embedding_shape))
    planes = "one image"
    if foreign.n_planes is not None:
        planes = count_things(foreign.n_planes, "plane")
    _print_facts(
        ("file", str(foreign.path)),
        ("from", foreign.kind),
        ("holds", planes),
        ("tiles", str(len(foreign.tiles))),
        ("features", shape),
        *foreign.notes.items(),
        ("weights", "not stated: only who made the file knows the model"),
    )


def _print_facts(*facts: tuple[str, str]) -> None:
    for label, value in facts:
        say(f"{label:9} {value}")


def _print_report(report: EntryReport) -> None:
    recipe = report.recipe
    name = "" if recipe is None else f" ({recipe.image}, {recipe.model})"
    say(f"entry {report.digest}{name}: {count_things(report.sound, 'plane')} sound")
    for what, planes in (("missing", report.missing), ("damaged", report.damaged)):
        if planes:
            say(f"  {len(planes)} {what}: {_first_few(planes)}")
    for problem in report.problems:
        say(f"  {problem}")


def _first_few(planes: Sequence[tuple[int, ...]], limit: int = 10) -> str:
    if not planes[0]:
        return "the only one"
    # planes that follow one another along the last axis are told by the ends
    runs: list[list[tuple[int, ...]]] = []
    for plane in planes:
        if runs and plane == (*runs[-1][-1][:-1], runs[-1][-1][-1] + 1):
            runs[-1].append(plane)
        else:
            runs.append([plane])
    names = [_name_run(run) for run in runs[:limit]]
    left = sum(map(len, runs[limit:]))
    return "; ".join(names) + (f" and {left} more" if left else "")


def _name_run(run: Sequence[tuple[int, ...]]) -> str:
    first, last = (",".join(map(str, plane)) for plane in (run[0], run[-1]))
    return first if len(run) == 1 else f"{first} to {last}"
