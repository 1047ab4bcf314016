"""Views: what a model sees of a plane, the true masks in it, and its embedding.

An object is shown in the tile in which it would be prompted, so that what is learned
is what is asked for. Each view may have variants (see `augment`), encoded once like
the first. Everything lies in the folder of the training: what was started can be
resumed although image and labels are gone or changed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import zarr

from napari_samseg.core.cache.memory import MemoryCache
from napari_samseg.core.cache.zarr_store import EmbeddingStore
from napari_samseg.core.errors import CacheError, CheckpointError, MissingFileError
from napari_samseg.core.models.frame import resize_plane
from napari_samseg.core.training.packed import PackedObjects
from napari_samseg.core.training.writing import telling_what_failed, write_json

if TYPE_CHECKING:
    from napari_samseg.core.cache.entry import StackEntry
    from napari_samseg.core.types import FloatArray, PlaneEmbedding

__all__ = ["FrameWriter", "View", "ViewSet", "drop_views", "has_views", "open_store"]

# Embeddings that stay in memory between their turns, in bytes.
HELD_BYTES = 1 << 29
STORE, FRAMES = "embeddings", "frames.zarr"
TABLE, OBJECTS, BITS = "views.json", "objects.npz", "objects.bin"


@dataclass(frozen=True, slots=True)
class View:
    """A tile of a plane, in one variant.

    Attributes
    ----------
    image : str
        Name of the image.
    plane : tuple of int
    tile : (y0, x0, y1, x1)
        Half-open, in pixels of the plane.
    variant : int
        0 is the image itself.
    size : (int, int)
        (Y, X) of the pixels that boxes and masks of its objects are in.
    first, last : int
        Half-open range of its objects.
    is_validation : bool
    plane_digest : str
        Of the pixels of the plane.
    entry : str
        Digest of the entry of its embedding; empty where the encoder learns.
    frame : int
        Number of its pixels in the file of frames; -1 where there are none.
    """

    image: str
    plane: tuple[int, ...]
    tile: tuple[int, int, int, int]
    variant: int
    size: tuple[int, int]
    first: int
    last: int
    is_validation: bool
    plane_digest: str
    entry: str = ""
    frame: int = -1

    def __len__(self) -> int:
        return self.last - self.first

    def __str__(self) -> str:
        where = f"{self.image}, plane {', '.join(map(str, self.plane)) or 0}"
        return where if not self.variant else f"{where}, variant {self.variant}"


class ViewSet:
    """The views of a training, in its folder.

    Parameters
    ----------
    folder : Path
    views : sequence of View
    objects : PackedObjects
    split : str
        How they were divided; see `napari_samseg.core.training.images.divide`.
    """

    def __init__(
        self,
        folder: Path,
        views: Sequence[View],
        objects: PackedObjects,
        split: str,
    ) -> None:
        self.folder = folder
        self.views = tuple(views)
        self.objects = objects
        self.split = split
        self._store = open_store(folder)
        self._entries: dict[str, StackEntry] = {}
        self._held = MemoryCache(HELD_BYTES)
        self._frames: zarr.Array[Any] | None = None

    @property
    def training(self) -> tuple[tuple[View, ...], ...]:
        """Views to train on; those that are variants of one another together."""
        places: dict[tuple[object, ...], list[View]] = {}
        for view in self.views:
            if not view.is_validation:
                place = view.image, view.plane, view.tile
                places.setdefault(place, []).append(view)
        return tuple(tuple(views) for views in places.values())

    @property
    def validation(self) -> tuple[View, ...]:
        """Views to validate on."""
        return tuple(view for view in self.views if view.is_validation)

    def embedding(self, view: View) -> PlaneEmbedding:
        """Return the embedding of a view.

        Raises
        ------
        CacheError
            If it is gone or damaged.
        """
        entry = self._entry(view.entry)
        key = entry.recipe.key(view.plane, view.tile, view.plane_digest)
        embedding = self._held.get(key)
        if embedding is None:
            embedding = entry.get(key)
            if embedding is None:
                raise CacheError(
                    f"the embedding of {view} in {self.folder} is gone or damaged: "
                    "start the training anew"
                )
            self._held.put(key, embedding)
        return embedding

    def frame(self, view: View) -> npt.NDArray[np.uint8]:
        """Return the pixels of a view in the model's square, (side, side, 3) uint8."""
        if self._frames is None:
            self._frames = zarr.open_array(self.folder / FRAMES, mode="r")
        return np.asarray(self._frames[view.frame])

    def _entry(self, digest: str) -> StackEntry:
        if digest not in self._entries:
            self._entries[digest] = self._store.open_entry(digest)
        return self._entries[digest]

    def save(self) -> None:
        """Write the table of views, so that `load` finds them.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        with telling_what_failed(self.folder / TABLE):
            self._write()

    def _write(self) -> None:
        objects = self.objects
        np.savez(
            self.folder / OBJECTS,
            object_ids=objects.object_ids,
            boxes_yx=objects.boxes_yx,
            starts=objects.starts,
            classes=objects.classes,
        )
        table = {"split": self.split, "views": [asdict(view) for view in self.views]}
        # last, and in one piece: it says that the rest is whole
        write_json(self.folder / TABLE, table)

    @classmethod
    def load(cls, folder: Path) -> ViewSet:
        """Read what `save` wrote.

        Raises
        ------
        MissingFileError
            If nothing was.
        CheckpointError
            If a file of it is gone or damaged.
        """
        if not has_views(folder):
            raise MissingFileError(f"there is no training to resume in {folder}")
        try:
            return cls._read(folder)
        except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
            raise CheckpointError(
                f"what the training in {folder} learns from is damaged ({error}): "
                "start it anew, with --overwrite or under another name"
            ) from error

    @classmethod
    def _read(cls, folder: Path) -> ViewSet:
        table = json.loads((folder / TABLE).read_text(encoding="utf-8"))
        views = [_read_view(values) for values in table["views"]]
        # numpy leaves a damaged file open that it has opened itself
        with (
            (folder / OBJECTS).open("rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            fields: dict[str, npt.NDArray[Any]] = dict(arrays)
        bits: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)
        if (folder / BITS).stat().st_size:
            bits = np.memmap(folder / BITS, np.uint8, "r")
        objects = PackedObjects(**fields, bits=bits)
        if len(bits) != objects.n_bytes:
            raise ValueError(
                f"{BITS} has {len(bits)} bytes in place of {objects.n_bytes}"
            )
        return cls(folder, views, objects, table["split"])


class FrameWriter:
    """Writes the pixels of views, as a model that learns to encode takes them.

    In whole grey levels, as pictures were when SAM was trained.

    Parameters
    ----------
    folder : Path
        Of the training.
    side : int
        Side of the model's square, in pixels.
    """

    def __init__(self, folder: Path, side: int) -> None:
        self._path = folder / FRAMES
        with telling_what_failed(self._path):
            self._frames = zarr.create_array(
                self._path,
                shape=(0, side, side, 3),
                chunks=(1, side, side, 3),
                dtype="uint8",
                overwrite=True,
            )

    def add(self, pixels: FloatArray) -> int:
        """Write the pixels (Y, X, 3) of a view and return their number."""
        number, side = self._frames.shape[0], self._frames.shape[1]
        resized = resize_plane(pixels, side)[0].permute(1, 2, 0).numpy()
        frame = np.zeros((side, side, 3), np.uint8)
        height, width = resized.shape[:2]
        frame[:height, :width] = np.rint(resized.clip(0, 255))
        with telling_what_failed(self._path):
            self._frames.resize((number + 1, *self._frames.shape[1:]))
            self._frames[number] = frame
        return number


def has_views(folder: Path) -> bool:
    """Tell whether the views of a training are in its folder, all of them."""
    return (folder / TABLE).is_file()


def drop_views(folder: Path) -> None:
    """Forget which views there are; their embeddings stay, to be used again."""
    (folder / TABLE).unlink(missing_ok=True)


def open_store(folder: Path) -> EmbeddingStore:
    """Open the embeddings of a training."""
    return EmbeddingStore(folder / STORE)


def _read_view(values: dict[str, Any]) -> View:
    for name in ("plane", "tile", "size"):
        values[name] = tuple(values[name])
    return View(**values)
