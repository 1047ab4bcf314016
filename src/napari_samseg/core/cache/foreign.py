"""Embeddings that other programs saved: read, never written.

Their files do not say which weights made them. Whoever opens one vouches for the
model: only the shape of the features and the size of the input can be checked, and a
wrong model of the same shape gives wrong masks without a word.
"""

from __future__ import annotations

import itertools
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import zarr
import zarr.storage

from napari_samseg.core.cache.recipe import Tile
from napari_samseg.core.errors import CacheError, InvalidImageError
from napari_samseg.core.types import FloatArray, PlaneEmbedding

if TYPE_CHECKING:
    from napari_samseg.core.models.protocol import PromptableModel

__all__ = ["ForeignEmbeddings", "open_foreign"]

SUFFIXES = (".pt", ".pth")
SIZES = ("original_size", "input_size")


class _Features(Protocol):
    """What numpy and zarr arrays have in common."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: Any, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class _Part:
    """Features of one tile: (1, C, h, w), or (planes, 1, C, h, w), and its sizes."""

    features: _Features
    original_size: tuple[int, int]
    input_size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ForeignEmbeddings:
    """Embeddings of another program.

    Attributes
    ----------
    path : Path
    kind : str
        What wrote it, in words.
    n_planes : int or None
        Length of the stack; None for a single image.
    tiles : tuple of tile
        Parts of each plane; (None,) for the whole.
    embedding_shape : (int, int, int)
        (C, h, w) of the features of one tile.
    notes : mapping of str to str
        What the file says of the image and the model.
    """

    path: Path
    kind: str
    n_planes: int | None
    tiles: tuple[Tile | None, ...]
    embedding_shape: tuple[int, int, int]
    notes: Mapping[str, str]
    parts: tuple[_Part, ...] = field(repr=False)

    def read(
        self, model: PromptableModel, plane: int | None = None, tile: Tile | None = None
    ) -> PlaneEmbedding:
        """Return the embedding of one tile, as if this model had made it.

        The file does not say which weights made it: give the model that did.

        Parameters
        ----------
        model : PromptableModel
        plane : int, optional
            In a stack.
        tile : (y0, x0, y1, x1), optional
            One of `tiles`, where the plane was cut into some.

        Raises
        ------
        InvalidImageError
            If there is no such plane or tile.
        CacheError
            If a model of this shape cannot have made it, or the file is damaged.
        """
        if tile not in self.tiles:
            raise InvalidImageError(f"{self.path} has no tile {tile}")
        part = self.parts[self.tiles.index(tile)]
        self._check_model(model, part)
        index: tuple[int, ...] = (0,)
        if self.n_planes is not None:
            if plane is None or not 0 <= plane < self.n_planes:
                raise InvalidImageError(
                    f"{self.path} has planes 0 to {self.n_planes - 1}, not {plane}"
                )
            index = (plane, 0)
        elif plane is not None:
            raise InvalidImageError(f"{self.path} holds one image, not plane {plane}")
        try:
            features: FloatArray = np.array(part.features[index], np.float32)
        except Exception as error:  # each codec has errors of its own
            raise CacheError(f"{self.path} is damaged: {error}") from error
        if not np.isfinite(features).all():
            raise CacheError(f"{self.path} holds features that are not finite")
        features.flags.writeable = False
        return PlaneEmbedding(
            {"image_embed": features},
            part.original_size,
            part.input_size,
            model.encoder_digest,
        )

    def _check_model(self, model: PromptableModel, part: _Part) -> None:
        from napari_samseg.core.models.frame import resized_size

        if self.embedding_shape != model.embedding_shape:
            raise CacheError(
                f"{self.path} holds features of shape {self.embedding_shape}, and "
                f"model {model.name} makes {model.embedding_shape}: choose the model "
                "that made them"
            )
        expected = resized_size(part.original_size, model.input_size)
        if part.input_size != expected:
            raise CacheError(
                f"{self.path} was made from images of {part.original_size} pixels "
                f"brought to {part.input_size}, and model {model.name} brings them to "
                f"{expected}: choose the model that made them"
            )


def open_foreign(path: Path) -> ForeignEmbeddings | None:
    """Open what another program saved; None if it is nothing of that kind.

    Read are the predictor's state as a torch dict (``features``, ``original_size``,
    ``input_size``), and the zarr folder of micro-sam, of images and stacks, whole
    and in tiles, of zarr 2 and 3.

    Raises
    ------
    CacheError
        If it looks like one and is damaged, not finished, or holds code.
    """
    if path.is_file() and path.suffix in SUFFIXES:
        return _open_torch(path)
    if not path.is_dir():
        return None
    try:
        group = zarr.open_group(zarr.storage.LocalStore(path, read_only=True), mode="r")
        features = group.get("features")
    except Exception:  # noqa: BLE001 - whatever it is, it cannot be read as zarr
        return None
    if isinstance(features, zarr.Array):
        return _open_whole(path, group, features)
    if isinstance(features, zarr.Group) and "tile_shape" in features.attrs:
        return _open_tiled(path, group, features)
    return None


# -- a torch dict ----------------------------------------------------------------------


def _open_torch(path: Path) -> ForeignEmbeddings | None:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CacheError(
            f"{path} holds Python objects other than tensors, or is damaged. Reading "
            "them could run code, so it is refused: save features, original_size and "
            "input_size alone"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CacheError(f"{path} is damaged or cut short") from error
    if not isinstance(content, Mapping) or not {"features", *SIZES} <= set(content):
        return None
    features = content["features"]
    if not isinstance(features, torch.Tensor) or content.get("is_image_set") is False:
        raise CacheError(f"{path} holds no features: its predictor had no image set")
    array = features.detach().float().numpy()
    part = _Part(array, *(_size(path, content[name]) for name in SIZES))
    return _foreign(path, "the state of a SAM predictor", None, (None,), (part,), {})


# -- micro-sam -------------------------------------------------------------------------


def _open_whole(
    path: Path, group: zarr.Group, features: zarr.Array[Any]
) -> ForeignEmbeddings | None:
    if features.ndim not in (4, 5):
        return None
    part = _Part(features, *_sizes(path, group.attrs))
    n_planes = features.shape[0] if features.ndim == 5 else None
    notes = _notes(group)
    return _foreign(path, "micro-sam", n_planes, (None,), (part,), notes)


def _open_tiled(
    path: Path, group: zarr.Group, features: zarr.Group
) -> ForeignEmbeddings:
    tiles = _blocks_with_halo(
        *(_size(path, features.attrs.get(n)) for n in ("shape", "tile_shape", "halo"))
    )
    parts = []
    for number, _ in enumerate(tiles):
        array = features.get(str(number))
        if not isinstance(array, zarr.Array):
            raise CacheError(f"{path} lacks tile {number}: it was not finished")
        parts.append(_Part(array, *_sizes(path, array.attrs)))
    shape = parts[0].features.shape
    n_planes = shape[0] if len(shape) == 5 else None
    notes = _notes(group)
    return _foreign(path, "micro-sam, in tiles", n_planes, tiles, tuple(parts), notes)


def _blocks_with_halo(
    shape: tuple[int, int], block: tuple[int, int], halo: tuple[int, int]
) -> tuple[Tile, ...]:
    """Return blocks in rows, each widened by the halo as far as the image goes."""
    starts = [range(0, n, step) for n, step in zip(shape, block, strict=True)]
    return tuple(
        (
            max(0, y - halo[0]),
            max(0, x - halo[1]),
            min(shape[0], y + block[0] + halo[0]),
            min(shape[1], x + block[1] + halo[1]),
        )
        for y, x in itertools.product(*starts)
    )


def _notes(group: zarr.Group) -> dict[str, str]:
    names = ("model_type", "model_name", "micro_sam_version", "data_signature")
    return {name: str(group.attrs[name]) for name in names if name in group.attrs}


# -- both ------------------------------------------------------------------------------


def _foreign(
    path: Path,
    kind: str,
    n_planes: int | None,
    tiles: tuple[Tile | None, ...],
    parts: tuple[_Part, ...],
    notes: Mapping[str, str],
) -> ForeignEmbeddings:
    lead = (1,) if n_planes is None else (n_planes, 1)
    shapes = {tuple(part.features.shape) for part in parts}
    shape = shapes.pop()
    if shapes or shape[:-3] != lead:
        raise CacheError(f"{path} holds features of shape {shape}, which are no SAM's")
    channels, rows, columns = shape[-3:]
    return ForeignEmbeddings(
        path, kind, n_planes, tiles, (channels, rows, columns), notes, parts
    )


def _sizes(
    path: Path, attributes: Mapping[str, Any]
) -> tuple[tuple[int, int], tuple[int, int]]:
    if any(attributes.get(name) is None for name in SIZES):
        raise CacheError(f"{path} does not say its sizes: it was not finished")
    original, resized = (_size(path, attributes[name]) for name in SIZES)
    return original, resized


def _size(path: Path, value: Any) -> tuple[int, int]:
    try:
        y, x = (int(length) for length in value)
    except (TypeError, ValueError) as error:
        raise CacheError(f"{path} says a size of {value!r}, which is none") from error
    return y, x
