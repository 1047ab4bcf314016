"""What is wrong with a store of embeddings, and how it is put right."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass

from zarr.abc.store import Store

from napari_samseg.core.amounts import count_things
from napari_samseg.core.cache.checked_store import CheckedStore
from napari_samseg.core.cache.claims import Claims
from napari_samseg.core.cache.entry import StackEntry
from napari_samseg.core.cache.keys import PARTIAL, StoreKeys, open_keys
from napari_samseg.core.cache.layout import (
    FEATURES,
    METADATA,
    entry_digests,
    entry_documents,
    has_sound_features,
    open_features,
    read_recipe,
    root_document,
)
from napari_samseg.core.cache.recipe import StackRecipe
from napari_samseg.core.cache.seal import unsealed
from napari_samseg.core.cache.zarr_store import EmbeddingStore
from napari_samseg.core.embed.order import select_planes
from napari_samseg.core.errors import (
    CacheError,
    DamagedStoreError,
    NewerStoreError,
    SettingsError,
)
from napari_samseg.core.types import Progress

__all__ = [
    "EntryReport",
    "VerifyReport",
    "repair",
    "sweep",
    "unfinished_files",
    "verify",
]

# a plane's number comes first in the names of chunks
NUMBERED = re.compile(r"(records|claims|quarantine|features/c)/(\d+)(/\d+)*")


@dataclass(frozen=True, slots=True)
class EntryReport:
    """What is wrong with one entry.

    Attributes
    ----------
    digest : str
    recipe : StackRecipe or None
        None if it cannot be read.
    sound : int
        Planes whose checksums agree.
    missing, damaged : tuple of plane index
    problems : tuple of str
        What is wrong besides planes: metadata, and what was left behind.
    """

    digest: str
    recipe: StackRecipe | None
    sound: int = 0
    missing: tuple[tuple[int, ...], ...] = ()
    damaged: tuple[tuple[int, ...], ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong or missing."""
        return not (self.missing or self.damaged or self.problems)


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What is wrong with a store.

    Attributes
    ----------
    entries : tuple of EntryReport
    """

    entries: tuple[EntryReport, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong or missing."""
        return all(entry.is_sound for entry in self.entries)


def verify(
    store: EmbeddingStore,
    digest: str | None = None,
    planes: tuple[int, int | None] = (0, None),
) -> Generator[Progress, None, VerifyReport]:
    """Read the planes of an entry, or of all, and compare checksums.

    Nothing is changed.

    Parameters
    ----------
    store : EmbeddingStore
    digest : str, optional
        Of one entry.
    planes : (start, stop)
        Half-open, counted through all axes that are not in the plane: what was
        never to be encoded is not missing.

    Raises
    ------
    SettingsError
        If no entry has such planes; those that do not are left out.
    CacheError
        If the store is out of reach.
    """
    digests = store.digests() if digest is None else [digest]
    reports: list[EntryReport] = []
    error: SettingsError | None = None
    for name in digests:
        try:
            reports.append((yield from _verify_entry(store, name, planes)))
        except SettingsError as other:  # a shorter stack beside the one that is meant
            error = other
    if error is not None and not reports:
        raise error
    return VerifyReport(tuple(reports))


def repair(
    location: str | os.PathLike[str] | Store, digest: str | None = None
) -> Generator[Progress, None, list[str]]:
    """Put a store right, as far as that can be done without encoding.

    Damaged metadata are written again. Planes that are damaged are put into
    quarantine, so that the next run encodes them. What interrupted writers left
    behind is removed. Entries of a newer version are left alone, and so are those
    whose recipe is lost: encoding the same stack again finds their planes.

    Returns
    -------
    list of str
        What was done, and what was left, a sentence each.

    Raises
    ------
    CacheError
        If the store is only read, is out of reach, or is none.
    """
    with contextlib.suppress(DamagedStoreError):
        # to make nothing where nothing is
        EmbeddingStore(location, write=False).close()
    opened = open_keys(location, write=True)
    if opened.read_only:
        raise CacheError(f"{location} may only be read: nothing can be repaired")
    lines = list(_repair_root(opened))
    store = EmbeddingStore(opened)
    for name in store.digests() if digest is None else [digest]:
        done = yield from _repair_entry(store, name)
        lines += [f"entry {name}: {line}" for line in done]
    return lines


def unfinished_files(keys: StoreKeys) -> frozenset[str]:
    """Return the names of the files of an entry that are being written, or never were.

    Which of the two, only time tells.
    """
    return frozenset(name for name in keys.files() if name.endswith(PARTIAL))


def sweep(keys: StoreKeys, unfinished: Collection[str]) -> None:
    """Remove what writers that were killed left behind in an entry.

    Parameters
    ----------
    keys : StoreKeys
        Of the entry.
    unfinished : collection of str
        What `unfinished_files` said so long ago that no file takes that long.

    Raises
    ------
    CacheError
        If the store is out of reach.
    """
    left = _left_behind(keys)
    old = [name for name in left.get(UNFINISHED, []) if name in unfinished]
    _remove(keys, [*left.get(GONE, []), *left.get(UNREADABLE, []), *old])


# -- looking ---------------------------------------------------------------------------


def _verify_entry(
    store: EmbeddingStore, digest: str, planes: tuple[int, int | None]
) -> Generator[Progress, None, EntryReport]:
    try:
        recipe = store.recipe(digest)
    except NewerStoreError as error:
        return EntryReport(digest, None, problems=(str(error),))
    if recipe is None:
        return EntryReport(digest, None, problems=("its recipe cannot be read",))
    problems = list(_damaged_metadata(store, recipe))
    for what, names in _left_behind(store.keys(digest)).items():
        if what != ENCODED_AGAIN:
            problems.append(count_things(len(names), *what))
    try:
        entry = store.open_entry(digest)
    except DamagedStoreError:
        return EntryReport(digest, recipe, problems=tuple(problems))
    states = yield from _check_planes(entry, planes)
    return EntryReport(
        digest,
        recipe,
        sum(state == "sound" for state in states.values()),
        tuple(plane for plane, state in states.items() if state == "missing"),
        tuple(plane for plane, state in states.items() if state == "damaged"),
        tuple(problems),
    )


def _check_planes(
    entry: StackEntry, planes: tuple[int, int | None] = (0, None)
) -> Generator[Progress, None, dict[tuple[int, ...], str]]:
    recipe = entry.recipe
    states: dict[tuple[int, ...], str] = {}
    chosen = select_planes(recipe.planes, *planes)
    for done, plane in enumerate(chosen):
        yield Progress("verifying", done, len(chosen), recipe.image)
        states[plane] = entry.check(plane)
    return states


def _damaged_metadata(store: EmbeddingStore, recipe: StackRecipe) -> Iterator[str]:
    keys = store.keys(recipe.digest)
    for document in (METADATA, FEATURES):
        if read_recipe(keys, recipe.digest, document) is None:
            yield f"{document} is damaged or missing"
    try:
        features = open_features(store.store, recipe, write=False)
    except (FileNotFoundError, DamagedStoreError):
        yield "the array cannot be opened"
    else:
        if not has_sound_features(features, recipe):
            yield "the metadata of the array are not those of its recipe"


# What one file is called that serves nothing, and what several are.
LeftBehind = tuple[str, str]
WITHOUT_RECORD = (
    "file of features without a record",
    "files of features without a record",
)
GONE = ("claim of a writer that is gone", "claims of writers that are gone")
UNFINISHED = ("unfinished file", "unfinished files")
UNREADABLE = (
    "unreadable note of when it was used",
    "unreadable notes of when it was used",
)
ENCODED_AGAIN = (
    "record from quarantine, of a plane that was encoded again",
    "records from quarantine, of planes that were encoded again",
)
LOST = (
    "its recipe cannot be read; encode the same stack with the same settings, which "
    "finds what is there, or delete it"
)


def _left_behind(keys: StoreKeys) -> dict[LeftBehind, list[str]]:
    """Return the names of files that serve nothing, by what they are.

    Nothing at which a writer may be is among them.
    """
    # a writer may begin or finish a plane while the files are listed
    claims = Claims(keys)
    live = claims.live()
    names = keys.files()
    live |= claims.live()
    recorded = {int(n[8:]) for n in names if re.fullmatch(r"records/\d+", n)}
    found: dict[LeftBehind, list[str]] = {}
    for name in names:
        what = None
        match = NUMBERED.fullmatch(name)
        if match is not None:
            what = _useless(match[1], int(match[2]), recorded, live)
        elif name == "used" and unsealed(keys.get(name)) is None:
            what = UNREADABLE
        elif name.endswith(PARTIAL) and not live:
            what = UNFINISHED
        if what is not None:
            found.setdefault(what, []).append(name)
    return found


def _useless(
    folder: str, place: int, recorded: set[int], live: set[int]
) -> LeftBehind | None:
    if folder == "claims":
        return None if place in live else GONE
    if folder == "features/c":
        return None if place in recorded | live else WITHOUT_RECORD
    if folder == "quarantine" and place in recorded:
        return ENCODED_AGAIN
    return None


# -- putting right ---------------------------------------------------------------------


def _repair_root(opened: CheckedStore) -> Iterator[str]:
    keys = StoreKeys(opened)
    try:
        EmbeddingStore(opened)
    except DamagedStoreError as error:
        if not any(_has_recipe(keys, digest) for digest in entry_digests(keys)):
            raise DamagedStoreError(
                f"{opened.location} holds nothing that can be saved: delete it"
            ) from error
        keys.set(METADATA, root_document())
        yield "the metadata of the store were written again"


def _has_recipe(keys: StoreKeys, digest: str) -> bool:
    entry = StoreKeys(keys.store, digest)
    return any(read_recipe(entry, digest, name) for name in (METADATA, FEATURES))


def _repair_entry(
    store: EmbeddingStore, digest: str
) -> Generator[Progress, None, list[str]]:
    try:
        recipe = store.recipe(digest)
    except NewerStoreError as error:
        return [f"left alone: {error}"]
    if recipe is None:
        return [LOST]
    done = []
    keys = store.keys(digest)
    if any(_damaged_metadata(store, recipe)):
        for name, document in entry_documents(recipe).items():
            keys.set(name, document)
        done.append("metadata written again")
    entry = store.open_entry(digest)
    states = yield from _check_planes(entry)
    damaged = [plane for plane, state in states.items() if state == "damaged"]
    claimed = entry.claimed()  # who is at a plane puts it right
    free = [plane for plane in damaged if recipe.position(plane) not in claimed]
    if set_aside := sum(map(entry.quarantine, free)):
        done.append(f"{count_things(set_aside, 'damaged plane')} put into quarantine")
    for what, names in _left_behind(keys).items():
        if removed := _remove(keys, names):
            done.append(f"removed {count_things(removed, *what)}")
    return done


def _remove(keys: StoreKeys, names: Collection[str]) -> int:
    """Remove what was left behind, but for what a writer uses by now; say how many."""
    claims = Claims(keys)
    removed = 0
    for name in names:
        if _is_spare(keys, claims, name):
            keys.delete(name)
            removed += 1
    return removed


def _is_spare(keys: StoreKeys, claims: Claims, name: str) -> bool:
    match = NUMBERED.fullmatch(name)
    if match is None:
        return True
    # in this order: a writer gives its claim up once the record is there
    if claims.is_live(int(match[2])):
        return False
    return match[1] != "features/c" or keys.get(f"records/{match[2]}") is None
