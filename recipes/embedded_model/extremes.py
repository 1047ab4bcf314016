"""Draw the best, the median and the worst object of a set, by box and by point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from picture_sheet import FOUND, PROMPT, TRUE, Picture
from PIL import Image, ImageDraw
from scoring import ClickScores
from skimage.segmentation import find_boundaries
from test_sets import Plane

from napari_samseg.core.metrics.prompting import draw_prompts, show_plane
from napari_samseg.core.predict import Predictor
from napari_samseg.core.prompts.object_index import ObjectIndex
from napari_samseg.core.settings import TileSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.types import BoolArray, PlanePrompts

SIDE = 180  # of a tile, in pixels of the picture
# a tile shows so many times the object's length, and at least so many pixels
LENGTHS, LEAST = 2.5, 40
PLACES = (("best", 1.0), ("median", 0.5), ("worst", 0.0))


def draw_extremes(
    predictor: Predictor,
    planes: Sequence[tuple[int, Plane]],
    scores: ClickScores,
    *,
    max_objects: int | None,
    tiles: TileSettings,
) -> Picture:
    """Draw two rows of tiles, boxes above and points below.

    Parameters
    ----------
    predictor : Predictor
    planes : sequence of (int, Plane)
        Those that were scored, with their numbers.
    scores : ClickScores
        At least one object.
    max_objects : int, optional
    tiles : TileSettings
        As they were scored with: so prompts and masks are the same.
    """
    by_number = dict(planes)
    rows = []
    for kind in ("box", "point"):
        ious = getattr(scores.prompts, kind)
        order = np.argsort(ious, kind="stable")
        drawn = []
        for title, place in PLACES:
            at = int(order[round(place * (len(order) - 1))])
            number = int(scores.planes[at])
            _, image, labels = by_number[number]
            found, boxes, points = draw_prompts(labels, (0, number), max_objects)
            is_it = found.object_ids == scores.prompts.object_ids[at]
            prompts = (boxes if kind == "box" else points).select(is_it)
            seen = show_plane(predictor, image, tiles)
            mask = run_steps(seen.predict_steps(prompts)).masks[0]
            caption = f"{kind}, {title}: {ious[at]:.2f}"
            drawn.append(_draw_tile(image, found.select(is_it), prompts, mask, caption))
        rows.append(np.hstack(drawn))
    return np.vstack(rows)


def save_picture(picture: Picture, path: Path) -> None:
    """Write a picture; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def _draw_tile(
    image: npt.NDArray[np.float32],
    found: ObjectIndex,
    prompts: PlanePrompts,
    mask: BoolArray,
    caption: str,
) -> Picture:
    y0, x0, y1, x1 = found.boxes_yx[0]
    side = int(max(LENGTHS * max(y1 - y0, x1 - x0), LEAST))
    corner = np.array([y0 + y1 - side, x0 + x1 - side]) // 2
    # a plane may end within the tile
    low = np.maximum(corner, 0)
    part = tuple(slice(a, c + side) for a, c in zip(low, corner, strict=True))
    before = low - corner
    square = np.zeros((side, side, 3), np.uint8)
    masks = np.zeros((2, side, side), bool)
    inside = tuple(
        slice(b, b + n) for b, n in zip(before, image[part].shape[:2], strict=True)
    )
    square[inside] = image[part]
    masks[(0, *inside)] = (found.labels == found.object_ids[0])[part]
    masks[(1, *inside)] = mask[part]
    large = np.array(Image.fromarray(square).resize((SIDE, SIDE)))
    for one, colour in zip(masks, (TRUE, FOUND), strict=True):
        enlarged = np.array(Image.fromarray(one).resize((SIDE, SIDE)))
        large[find_boundaries(enlarged, mode="inner")] = colour
    canvas, scale = Image.fromarray(large), SIDE / side
    draw = ImageDraw.Draw(canvas)
    if prompts.has_box[0]:
        top, left, bottom, right = scale * (prompts.boxes_yx[0] - np.tile(corner, 2))
        draw.rectangle((left, top, right, bottom), outline=PROMPT)
    for y, x in scale * (prompts.points_yx[0] - corner + 0.5):
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=PROMPT, outline=(0, 0, 0))
    draw.rectangle((0, SIDE - 13, SIDE, SIDE), fill=(0, 0, 0))
    draw.text((3, SIDE - 13), caption, fill=(255, 255, 255))
    return np.asarray(canvas)
