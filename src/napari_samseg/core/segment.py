"""Segment one plane of an image from prompts, in one call and without a window."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from napari_samseg.core.errors import InvalidImageError, InvalidPromptError
from napari_samseg.core.images import PlaneSource, open_image
from napari_samseg.core.planes import MeasuredPlane, measure_plane
from napari_samseg.core.prompts.from_arrays import pair_prompts
from napari_samseg.core.prompts.stray_points import warn_stray
from napari_samseg.core.settings import ImageSettings, TileSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.types import MaskPrediction, PlanePrompts

if TYPE_CHECKING:
    from napari_samseg.core.models.protocol import PromptableModel
    from napari_samseg.core.predict import Predictor

__all__ = ["segment"]


def segment(
    image: Any,
    *,
    points: npt.ArrayLike | None = None,
    point_labels: npt.ArrayLike | None = None,
    boxes: npt.ArrayLike | None = None,
    prompts: PlanePrompts | None = None,
    model: str | os.PathLike[str] | PromptableModel = "default",
    combine: bool = False,
    plane: int | tuple[int, ...] | None = None,
    settings: ImageSettings | None = None,
    tiles: TileSettings | None = None,
    embeddings: str | os.PathLike[str] | None = None,
    device: str = "auto",
) -> MaskPrediction:
    """Segment the objects that points and boxes show.

    Each row of `points` and each row of `boxes` is an object; where both are
    given they pair by row. With `combine`, all of them describe one object.
    A second call on the same plane with the same model does not encode again.

    Parameters
    ----------
    image : array-like or PlaneSource
        A plane (Y, X) or (Y, X, 3), or with `plane` a volume (..., Y, X); any
        dtype; numpy, dask, zarr or a list of resolution levels. Use
        `core.images.open_image` to say which axis holds channels.
    points : (N, 2) float, optional
        (y, x) in pixels; an integer is the centre of a pixel.
    point_labels : (N,) int, optional
        1 on the object, 0 off it; all 1 when not given.
    boxes : (N, 4) float, optional
        Half-open (y0, x0, y1, x1) in pixels, as in regionprops.
    prompts : PlanePrompts, optional
        Instead of points and boxes, when objects have several of them.
    model : str, path or PromptableModel
        Name in the zoo, path of a checkpoint, or a model already loaded.
    combine : bool
        Make one object of all points and boxes.
    plane : int or tuple of int, optional
        Position along each axis before (Y, X).
    settings : ImageSettings, optional
        Contrast, channels and resolution level. Prompts and masks are in the
        pixels of that level.
    tiles : TileSettings, optional
        How a plane larger than the model's input is cut; only tiles that an
        object lies in are encoded.
    embeddings : str or path, optional
        Store in which `napari_samseg.embed` has put the image, a folder, zip file or
        URL: what is there is not encoded again.
    device : str
        "auto", "cpu", "cuda", "cuda:1" or "mps"; not used for a loaded model.

    Returns
    -------
    MaskPrediction
        One mask per object, at the size of the plane.

    Warns
    -----
    PromptWarning
        If a foreground point lies outside the box of its own object.

    Raises
    ------
    InvalidImageError
        If the image is a volume and no plane is named, or the plane is not in it.
    InvalidPromptError
        If there is no prompt, one lies outside, or an object has only points
        labelled 0.
    UnknownNameError, MissingFileError, CheckpointError, DownloadError
        If the model cannot be loaded.
    CacheError
        If the image is not in the store of embeddings, or that cannot be read.
    """
    settings = ImageSettings() if settings is None else settings
    source = image if isinstance(image, PlaneSource) else open_image(image)
    index = _plane_index(source, plane)
    plane_size = source.plane_size(settings.level)
    if prompts is None:
        prompts = pair_prompts(
            points, point_labels, boxes, combine=combine, plane_size=plane_size
        )
    elif not (points is None and point_labels is None and boxes is None):
        raise InvalidPromptError("give either prompts or points and boxes, not both")
    measured = measure_plane(source, index, settings)
    from napari_samseg.core.tiled import TiledPlane, plan_tiles

    predictor = _predictor_for(model, device)
    tiles = TileSettings() if tiles is None else tiles
    if embeddings is not None:
        predictor = _with_store(predictor, embeddings, measured, tiles)
    warn_stray(prompts)
    boxes_yx = plan_tiles(plane_size, predictor.model.input_size, tiles)
    tiled = TiledPlane(predictor, measured, boxes_yx)
    return run_steps(tiled.predict_steps(prompts))


def _with_store(
    predictor: Predictor,
    location: str | os.PathLike[str],
    plane: MeasuredPlane,
    tiles: TileSettings,
) -> Predictor:
    from napari_samseg.core.cache.layered import LayeredCache
    from napari_samseg.core.embed.stored import stored_embeddings
    from napari_samseg.core.predict import Predictor

    model = predictor.model
    entry = stored_embeddings(location, "the image", plane, model, tiles)
    return Predictor(model, LayeredCache(predictor.cache, entry))


def _plane_index(
    source: PlaneSource, plane: int | tuple[int, ...] | None
) -> tuple[int, ...]:
    index = () if plane is None else plane if isinstance(plane, tuple) else (plane,)
    if len(index) != source.ndim - 2:
        lead = source.shape[:-2]
        raise InvalidImageError(
            f"an image of shape {source.shape} has planes {lead}: name one with "
            f"plane={'an index' if len(lead) == 1 else f'{len(lead)} indices'}"
            if lead
            else f"an image of shape {source.shape} is one plane: leave plane out"
        )
    return index


def _predictor_for(
    model: str | os.PathLike[str] | PromptableModel, device: str
) -> Predictor:
    if isinstance(model, str | os.PathLike):
        path = Path(model)
        # a checkpoint written again under its old name is another model
        stamp = path.stat().st_mtime_ns if path.is_file() else 0
        return _loaded(os.fspath(model), device, stamp)
    # a protocol cannot say that what keeps to it is hashable
    return _wrapped(model)  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def _loaded(model: str, device: str, stamp: int) -> Predictor:
    """Keep the last model and the planes it encoded, for the next call."""
    from napari_samseg.core.models import load_model
    from napari_samseg.core.predict import Predictor

    del stamp  # only part of the key
    return Predictor(load_model(model, device=device))


@lru_cache(maxsize=1)
def _wrapped(model: PromptableModel) -> Predictor:
    """Keep the planes that the last model encoded, for the next call."""
    from napari_samseg.core.predict import Predictor

    return Predictor(model)
