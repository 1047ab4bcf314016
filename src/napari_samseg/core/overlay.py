"""A picture of masks and the prompts they came from, drawn over their plane."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_samseg.core.types import FOREGROUND, PADDING

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

    from napari_samseg.core.types import FloatArray, MaskPrediction, PlanePrompts

__all__ = ["draw_overlay", "object_colour"]

Colour = tuple[int, int, int]

# Small planes are enlarged to about this many pixels along the longer side.
LONGEST_SIDE = 1200
# Pillow's lines are jagged: everything is drawn larger and then reduced.
SUPERSAMPLING = 2
FILL_OPACITY = 64
POSITIVE: Colour = (40, 200, 80)
NEGATIVE: Colour = (230, 60, 60)
BOX: Colour = (255, 225, 60)
WHITE: Colour = (255, 255, 255)


def draw_overlay(
    plane: FloatArray, prediction: MaskPrediction, prompts: PlanePrompts
) -> npt.NDArray[np.uint8]:
    """Draw contours, a light fill, ids and prompts over a plane.

    Points on the object are green, points off it red, boxes yellow.

    Parameters
    ----------
    plane : (Y, X, 3) float32
        In 0..255.
    prediction : MaskPrediction
        Masks of the size of the plane.
    prompts : PlanePrompts
        What they were prompted with.

    Returns
    -------
    (sY, sX, 3) uint8
        Enlarged by a whole number s where the plane is small.
    """
    from PIL import Image, ImageDraw

    height, width = plane.shape[:2]
    scale = max(1, round(LONGEST_SIDE / max(height, width)))
    zoom = scale * SUPERSAMPLING
    size = (width * zoom, height * zoom)
    picture = Image.fromarray(np.round(plane).astype(np.uint8))
    picture = picture.resize(size, Image.Resampling.BICUBIC).convert("RGBA")
    layer = Image.new("RGBA", size)
    draw = ImageDraw.Draw(layer)
    _draw_masks(draw, prediction, zoom)
    _draw_prompts(draw, prompts, zoom)
    _draw_ids(draw, prediction, zoom)
    picture.alpha_composite(layer)
    picture = picture.convert("RGB").resize(
        (width * scale, height * scale), Image.Resampling.LANCZOS
    )
    return np.asarray(picture)


def object_colour(object_id: int) -> Colour:
    """Return a bright colour; ids that follow each other get distant hues."""
    # steps of the golden ratio never come close to a hue used just before
    hue = (object_id * 0.618034) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def _draw_masks(draw: ImageDraw, prediction: MaskPrediction, zoom: int) -> None:
    from skimage.measure import find_contours

    for object_id, crop, box in zip(
        prediction.object_ids, prediction.crops, prediction.boxes_yx, strict=True
    ):
        if not crop.any():
            continue
        colour = object_colour(int(object_id))
        # contours close at the border of the crop only where something lies beyond
        padded = np.pad(crop, 1).astype(np.float32)
        outlines = []
        for contour in find_contours(padded, 0.5):
            vertices = (contour + box[:2] - 0.5) * zoom
            outlines.append([(float(x), float(y)) for y, x in vertices])
        for outline in outlines:
            if len(outline) > 2:
                draw.polygon(outline, fill=(*colour, FILL_OPACITY))
        for outline in outlines:
            draw.line(outline, fill=(*colour, 255), width=zoom, joint="curve")


def _draw_prompts(draw: ImageDraw, prompts: PlanePrompts, zoom: int) -> None:
    for y0, x0, y1, x1 in prompts.boxes_yx[prompts.has_box] * zoom:
        corners = (float(x0), float(y0), float(x1), float(y1))
        draw.rectangle(corners, outline=(*BOX, 255), width=max(1, zoom // 2))
    radius = 2.0 * zoom
    for points, labels in zip(prompts.points_yx, prompts.point_labels, strict=True):
        for (y, x), label in zip((points + 0.5) * zoom, labels, strict=True):
            if label == PADDING:
                continue
            colour = POSITIVE if label == FOREGROUND else NEGATIVE
            disc = (x - radius, y - radius, x + radius, y + radius)
            draw.ellipse(
                tuple(float(v) for v in disc),
                fill=(*colour, 255),
                outline=(*WHITE, 255),
                width=max(1, zoom // 2),
            )


def _draw_ids(draw: ImageDraw, prediction: MaskPrediction, zoom: int) -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(size=max(18, 5 * zoom))
    for object_id, crop, box in zip(
        prediction.object_ids, prediction.crops, prediction.boxes_yx, strict=True
    ):
        if not crop.any():
            continue
        y, x = (np.argwhere(crop).mean(axis=0) + box[:2] + 0.5) * zoom
        draw.text(
            # above the middle, where a point prompt is likely to be
            (float(x), float(y) - 3 * zoom),
            str(object_id),
            font=font,
            anchor="mb",
            fill=(*WHITE, 255),
            stroke_width=max(1, zoom // 3),
            stroke_fill=(0, 0, 0, 255),
        )
