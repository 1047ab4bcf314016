"""Prompts in a plane of any size, answered from the tile that suits each object.

Every object is decoded whole, in one tile of a pyramid: a mask that reaches the
border of its tile is decoded again in a larger one, so that nothing is cut and sewn
together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.cache.key import EmbeddingKey
from napari_samseg.core.geometry import (
    Box,
    choose_tile,
    grow_box,
    tile_pyramid,
    touches_inner_border,
)
from napari_samseg.core.models.protocol import precision_of
from napari_samseg.core.planes import MODEL_PIXELS, describe_preprocessing
from napari_samseg.core.predict import check_inside, predict_masks
from napari_samseg.core.prompts.framing import frame_prompts, prompted_extents
from napari_samseg.core.steps import map_steps
from napari_samseg.core.types import MaskPrediction, PlanePrompts, Progress

if TYPE_CHECKING:
    from napari_samseg.core.planes import MeasuredPlane
    from napari_samseg.core.predict import Multimask, Predictor
    from napari_samseg.core.settings import TileSettings
    from napari_samseg.core.types import IntArray, PlaneEmbedding

__all__ = ["TiledPlane", "plan_tiles"]

# A mask predicted to be this good is not looked for at another scale.
SURE = 0.7
# A mask prompt of a large plane needs no more cells than this to show in a tile.
MAX_MASK_SIDE = 2048


def plan_tiles(
    plane_size: tuple[int, int], input_size: int, settings: TileSettings
) -> tuple[Box, ...]:
    """Return the tiles in which a model is to encode planes of a size.

    Parameters
    ----------
    plane_size : (int, int)
        (Y, X) in pixels.
    input_size : int
        Side of the square the model sees, in pixels.
    settings : TileSettings

    Returns
    -------
    tuple of (y0, x0, y1, x1)
        Half-open; the last one is the whole plane.
    """
    if settings.tiling == "whole":
        return ((0, 0, *plane_size),)
    side = settings.tile or input_size
    return tile_pyramid(plane_size, side, settings.overlap / 100)


@dataclass(frozen=True, slots=True, eq=False)
class TiledPlane:
    """A plane whose tiles are encoded once they are needed.

    Attributes
    ----------
    predictor : Predictor
        The model, and the cache where tiles are looked up.
    plane : MeasuredPlane
    tiles : tuple of (y0, x0, y1, x1)
        Of `plan_tiles`.
    encoded : set of int
        Numbers of the tiles that have been encoded or found in the cache, which may
        have dropped them since.
    held : dict of int to PlaneEmbedding
        The embedding of the whole plane, which is there whatever the cache drops.
    """

    predictor: Predictor
    plane: MeasuredPlane
    tiles: tuple[Box, ...]
    encoded: set[int] = field(default_factory=set)
    held: dict[int, PlaneEmbedding] = field(default_factory=dict)

    @property
    def whole(self) -> int:
        """Number of the tile that is the whole plane."""
        return len(self.tiles) - 1

    @property
    def mask_side(self) -> int:
        """Side of mask prompts that show enough detail for the finest tile."""
        finest = min(max(y1 - y0, x1 - x0) for y0, x0, y1, x1 in self.tiles)
        scale = -(-max(self.plane.size) // finest)
        return min(self.predictor.model.low_res_size * scale, MAX_MASK_SIDE)

    def key(self, number: int) -> EmbeddingKey:
        """Return the identity of a tile's embedding."""
        plane = self.plane
        return EmbeddingKey(
            plane_digest=plane.digest,
            encoder_digest=self.predictor.model.encoder_digest,
            precision=precision_of(self.predictor.model),
            preprocessing=describe_preprocessing(
                plane.source, plane.settings, plane.plane_axes
            ),
            plane=plane.index,
            tile=self.tiles[number],
        )

    def embedding_steps(self, number: int) -> Generator[Progress, None, PlaneEmbedding]:
        """Take a tile's embedding from the cache, or read and encode the tile.

        Raises
        ------
        ModelMemoryError
            If memory runs out, on the CPU too.
        """
        if number in self.held:
            return self.held[number]
        key, (y0, x0, y1, x1) = self.key(number), self.tiles[number]
        embedding = self.predictor.cache.get(key)
        if embedding is None:
            pixels = self.plane.read(self.tiles[number], MODEL_PIXELS)
            embedding = yield from self.predictor.encode_steps(
                pixels, key, original_size=(y1 - y0, x1 - x0)
            )
        self.encoded.add(number)
        if number == self.whole:
            self.held[number] = embedding
        return embedding

    def without_encoding(self) -> TiledPlane:
        """Return the plane with no tiles but those whose embedding is there now.

        The whole plane stays among them, for there must be one.
        """
        found = [
            (self.tiles[number], embedding)
            for number in sorted(self.encoded - {self.whole})
            if (embedding := self.predictor.cache.get(self.key(number))) is not None
        ]
        held = {number: embedding for number, (_, embedding) in enumerate(found)}
        if self.whole in self.held:
            held[len(found)] = self.held[self.whole]
        tiles = (*(tile for tile, _ in found), self.tiles[self.whole])
        return dataclasses.replace(self, tiles=tiles, encoded=set(), held=held)

    def remaining_steps(self, most: int) -> Generator[Progress, None, None]:
        """Encode tiles that are not encoded yet, the finest and most central first.

        Parameters
        ----------
        most : int
            Stop once so many tiles are encoded: a cache holds no more.
        """
        middle = np.array(self.plane.size) / 2

        def rank(number: int) -> tuple[int, float]:
            y0, x0, y1, x1 = self.tiles[number]
            away = np.hypot(*((y0 + y1) / 2, (x0 + x1) / 2) - middle)
            return max(y1 - y0, x1 - x0), float(away)

        missing = sorted(set(range(len(self.tiles))) - self.encoded, key=rank)
        total = min(most, len(self.tiles))
        for number in missing[: max(0, most - len(self.encoded))]:
            stage = Progress("encoding tiles", len(self.encoded), total)
            yield stage
            # between its blocks, too, others may want to go first
            yield from map_steps(self.embedding_steps(number), lambda step: stage)  # noqa: B023

    def predict_steps(
        self,
        prompts: PlanePrompts,
        *,
        multimask: Multimask = "auto",
        islands: bool = False,
    ) -> Generator[Progress, None, MaskPrediction]:
        """Decode prompts, encoding tiles on the way where that is still to do.

        Parameters
        ----------
        prompts : PlanePrompts
            In pixels of the plane; mask prompts may have any resolution.
        multimask, islands
            See `napari_samseg.core.predict.predict_masks`.

        Raises
        ------
        InvalidPromptError
            If there is no prompt, or one lies outside the plane.
        ModelMemoryError
            If memory runs out even for one object on the CPU.
        """
        size = self.plane.size
        prompts = check_inside(prompts, size)
        search = _Search(self.tiles, size, prompts)
        while search.open:
            for number, members in search.by_tile():
                prediction = yield from self._predict_in_tile(
                    number, prompts.select(members), multimask, islands
                )
                for row, i in enumerate(members):
                    search.judge(int(i), prediction, row)
        return _join(search.found)

    def _predict_in_tile(
        self, number: int, prompts: PlanePrompts, multimask: Multimask, islands: bool
    ) -> Generator[Progress, None, MaskPrediction]:
        embedding = yield from self.embedding_steps(number)
        model, tile = self.predictor.model, self.tiles[number]
        framed = frame_prompts(prompts, tile, self.plane.size, model.low_res_size)
        prediction = predict_masks(
            model, embedding, framed, multimask=multimask, islands=islands
        )
        offset = np.array([*tile[:2], *tile[:2]])
        filled = np.array([[crop.size > 0] for crop in prediction.crops])
        return dataclasses.replace(
            prediction,
            boxes_yx=np.where(
                filled, prediction.boxes_yx + offset, prediction.boxes_yx
            ),
            plane_size=self.plane.size,
            frames_yx=np.tile(tile, (len(prompts), 1)),
        )


class _Search:
    """Finds the scale at which each object is seen best.

    An object begins in the finest tile that holds its prompts. It goes on to a larger
    one if its mask is cut by the border of its tile; and, where nothing but points
    tells its size, if the model doubts the mask: seen too closely, an object falls
    into parts, and the model knows. Of all masks that are not cut, the one with the
    highest predicted IoU is kept.
    """

    def __init__(
        self, tiles: Sequence[Box], plane_size: tuple[int, int], prompts: PlanePrompts
    ) -> None:
        n = len(prompts)
        self._tiles, self._size = tiles, plane_size
        self._extents = prompted_extents(prompts, plane_size)
        self._size_is_known = prompts.has_box | prompts.has_mask
        at = [choose_tile(tiles, extent, plane_size) for extent in self._extents]
        self._at = np.array(at, np.int64)
        self._best = np.full(n, -np.inf)
        self._found: dict[int, tuple[MaskPrediction, int]] = {}
        self.open = set(range(n))

    @property
    def found(self) -> list[tuple[MaskPrediction, int]]:
        """The best prediction of each object, and its row in it."""
        return [self._found[i] for i in range(len(self._best))]

    def by_tile(self) -> Iterator[tuple[int, IntArray]]:
        """Yield tiles and the objects to decode in each."""
        members = np.array(sorted(self.open), np.int64)
        for number in np.unique(self._at[members]):
            yield int(number), members[self._at[members] == number]

    def judge(self, i: int, prediction: MaskPrediction, row: int) -> None:
        """Keep a mask if it is the best of an object, and decide where it goes on."""
        tile = self._tiles[self._at[i]]
        box = prediction.boxes_yx[row]
        # weights that overflow give no number at all: the worst there is
        score = float(np.nan_to_num(prediction.iou_predictions[row], nan=-1.0))
        is_cut = prediction.crops[row].size > 0 and touches_inner_border(
            box, tile, self._size
        )
        rank = score - is_cut
        if rank > self._best[i]:
            self._best[i], self._found[i] = rank, (prediction, row)
        is_sure = bool(self._size_is_known[i]) or score >= SURE
        is_whole = self._at[i] == len(self._tiles) - 1
        if is_whole or (is_sure and not is_cut):
            self.open.remove(i)
            return
        if is_sure:
            self._extents[i] = grow_box(self._extents[i], box.astype(float))
        side = max(tile[2] - tile[0], tile[3] - tile[1])
        self._at[i] = choose_tile(
            self._tiles, self._extents[i], self._size, larger_than=side
        )


def _join(parts: Sequence[tuple[MaskPrediction, int]]) -> MaskPrediction:
    """Take one row of each prediction."""

    def rows(name: str) -> npt.NDArray[Any]:
        return np.stack([getattr(prediction, name)[row] for prediction, row in parts])

    return MaskPrediction(
        object_ids=rows("object_ids"),
        crops=tuple(prediction.crops[row] for prediction, row in parts),
        boxes_yx=rows("boxes_yx"),
        plane_size=parts[0][0].plane_size,
        iou_predictions=rows("iou_predictions"),
        low_res_masks=rows("low_res_masks"),
        frames_yx=rows("frames_yx"),
    )
