"""What a stack of embeddings was made from: two equal recipes share an entry."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from typing import Any

import xxhash

from napari_samseg.core.cache.key import EmbeddingKey
from napari_samseg.core.errors import SettingsError

__all__ = ["STORAGE_FORMATS", "StackRecipe", "Tile"]

# Fields that say who made the features and how, but not what they are.
LABELS = ("model", "plugin_version")

# Half-open (y0, x0, y1, x1) of a part of the plane, or of the whole.
Tile = tuple[int, int, int, int]

# How features lie on disk, and the bytes of one value.
STORAGE_FORMATS: dict[str, int] = {"float16": 2, "float32": 4, "uint8": 1}


@dataclass(frozen=True, slots=True)
class StackRecipe:
    """Everything that decides the features of a stack, but for its pixels.

    The pixels are known plane by plane, by the digest in each plane's record, so
    that a change of one plane costs one plane. Two recipes are equal if only their
    `model` or `plugin_version` differ.

    Attributes
    ----------
    image : str
        Path, URL or name of the image, for people and to tell apart images of the
        same size; an image that was moved is found by its pixels, see
        `EmbeddingStore.entry`.
    planes : tuple of int
        Lengths of the axes that are not in the plane; empty for a single plane.
    plane_size : (int, int)
        (Y, X) in pixels of the resolution level that is encoded.
    dtype : str
        Of the image, such as ``"uint16"``.
    encoder_digest : str
    model : str
        Name of the model, for people: the digest is what counts.
    embedding_shape : (int, int, int)
        (C, h, w) of the features of one tile.
    precision : str
        Arithmetic of the encoder.
    tiles : tuple of tile
        Parts of each plane that are encoded, one at least.
    preprocessing : tuple of (str, value)
        As in `EmbeddingKey`.
    storage : str
        Key in `STORAGE_FORMATS`.
    plane_axes : (int, int)
        Axes of the image, channels not counted, that are rows and columns.
    input_size : int or None
        Side of the square that the encoder sees, in pixels, where it was told.
    plugin_version : str
        Of napari-samseg, which made the entry.
    """

    image: str
    planes: tuple[int, ...]
    plane_size: tuple[int, int]
    dtype: str
    encoder_digest: str
    model: str = field(compare=False)
    embedding_shape: tuple[int, int, int]
    precision: str
    tiles: tuple[Tile, ...]
    preprocessing: tuple[tuple[str, str | int | float | None], ...] = ()
    storage: str = "float16"
    plane_axes: tuple[int, int] = (-2, -1)
    input_size: int | None = None
    plugin_version: str = field(
        default_factory=lambda: version("napari-samseg"), compare=False
    )

    def __post_init__(self) -> None:
        if self.storage not in STORAGE_FORMATS:
            known = ", ".join(STORAGE_FORMATS)
            raise SettingsError(f"storage {self.storage!r} is not one of {known}")
        if self.n_planes == 0:
            raise SettingsError(f"{self.image} has no planes to encode")
        if not self.tiles:
            raise SettingsError(f"{self.image} has no tiles to encode")

    @property
    def n_planes(self) -> int:
        """Number of planes in the stack."""
        return math.prod(self.planes)

    @property
    def plane_nbytes(self) -> int:
        """Bytes of one plane's features before compression."""
        values = math.prod(self.embedding_shape) * len(self.tiles)
        return values * STORAGE_FORMATS[self.storage]

    @property
    def digest(self) -> str:
        """Name of the entry: a hash of all fields but the model's name and version."""
        fields = {n: value for n, value in asdict(self).items() if n not in LABELS}
        text = json.dumps(fields, sort_keys=True)
        return xxhash.xxh3_128(text.encode()).hexdigest()

    def suits(self, other: StackRecipe) -> bool:
        """Tell whether two recipes differ in nothing but the names of image and model.

        The same pixels then have the same features.
        """
        return self == replace(other, image=self.image)

    def key(
        self, plane: tuple[int, ...], tile: Tile, plane_digest: str
    ) -> EmbeddingKey:
        """Return the key of a tile of a plane with this content."""
        return EmbeddingKey(
            plane_digest=plane_digest,
            encoder_digest=self.encoder_digest,
            precision=self.precision,
            preprocessing=self.preprocessing,
            plane=plane,
            tile=tile,
        )

    def makes(self, key: EmbeddingKey) -> bool:
        """Tell whether an embedding with this key belongs to the stack."""
        return (
            key.tile in self.tiles
            and key == self.key(key.plane, key.tile, key.plane_digest)
            and len(key.plane) == len(self.planes)
            and all(0 <= i < n for i, n in zip(key.plane, self.planes, strict=True))
        )

    def position(self, plane: tuple[int, ...]) -> int:
        """Return the place of a plane among all planes, in C order."""
        place = 0
        for index, length in zip(plane, self.planes, strict=True):
            place = place * length + index
        return place

    def plane_at(self, position: int) -> tuple[int, ...]:
        """Return the index of the plane at a place in C order."""
        index = []
        for length in reversed(self.planes):
            position, rest = divmod(position, length)
            index.append(rest)
        return tuple(reversed(index))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON knows them."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> StackRecipe:
        """Read what `to_json` wrote.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a field is missing or of another kind.
        """
        tiles = tuple(_tile(t) for t in fields["tiles"])
        height, width = fields["plane_size"]
        depth, rows, columns = fields["embedding_shape"]
        rows_axis, columns_axis = fields["plane_axes"]
        side = fields["input_size"]
        return cls(
            image=str(fields["image"]),
            planes=tuple(int(n) for n in fields["planes"]),
            plane_size=(int(height), int(width)),
            dtype=str(fields["dtype"]),
            encoder_digest=str(fields["encoder_digest"]),
            model=str(fields["model"]),
            embedding_shape=(int(depth), int(rows), int(columns)),
            precision=str(fields["precision"]),
            preprocessing=tuple((str(k), v) for k, v in fields["preprocessing"]),
            tiles=tiles,
            storage=str(fields["storage"]),
            plane_axes=(int(rows_axis), int(columns_axis)),
            input_size=None if side is None else int(side),
            plugin_version=str(fields["plugin_version"]),
        )


def _tile(values: list[int]) -> Tile:
    y0, x0, y1, x1 = values
    return y0, x0, y1, x1
