"""Draw what the model answers on test images: `docs/images/embedded-model.png`.

Left of each pair the boxes and the masks they gave, right the clicks and theirs; green
outlines are true, magenta ones the model's. Only images whose licence lets them stand
in the documentation (CC0 and MIT) are used.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from skimage.segmentation import find_boundaries
from test_sets import TEST_SETS, Plane

from napari_samseg.core.metrics.overlap import mask_iou
from napari_samseg.core.metrics.prompting import show_plane
from napari_samseg.core.models import load_model
from napari_samseg.core.predict import Predictor
from napari_samseg.core.prompts.from_labels import (
    sample_jittered_box,
    sample_random_point,
)
from napari_samseg.core.prompts.object_index import index_objects
from napari_samseg.core.settings import TileSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.types import MaskPrediction, PlanePrompts

Picture = npt.NDArray[np.uint8]
TRUE, FOUND, PROMPT = (40, 200, 60), (255, 60, 220), (255, 220, 0)
TILE, ZOOM, OBJECTS = 150, 2, 9


def choose_planes(data: Path) -> list[Plane]:
    """Take some test planes of each kind, the first of each in the set's order."""
    nuclei = list(TEST_SETS["dsb2018"].read(data))
    coloured = [p for p in nuclei if np.ptp(p[1], axis=2).max() > 0]
    grey = [p for p in nuclei if np.ptp(p[1], axis=2).max() == 0]
    return [*grey[:3], *coloured[:2], *TEST_SETS["axons"].read(data)]


def crop_tile(plane: Plane, y: int, x: int) -> tuple[slice, slice]:
    """Return a window of at most TILE pixels around a place, inside of the plane."""
    height, width = plane[2].shape
    y0 = int(np.clip(y - TILE // 2, 0, max(height - TILE, 0)))
    x0 = int(np.clip(x - TILE // 2, 0, max(width - TILE, 0)))
    return slice(y0, y0 + TILE), slice(x0, x0 + TILE)


def draw_tile(
    plane: Plane,
    window: tuple[slice, slice],
    prompts: PlanePrompts,
    prediction: MaskPrediction,
) -> Picture:
    """Draw outlines and prompts of one window, with the mean IoU of what it shows."""
    _, image, labels = plane
    side = TILE * ZOOM
    picture = np.zeros((side, side, 3), np.uint8)
    part = _enlarge(image[window].astype(np.uint8))
    h, w = part.shape[:2]
    ious = []
    for object_id, mask in zip(prompts.object_ids, prediction.masks, strict=True):
        true = labels == object_id
        ious.append(mask_iou(mask, true))
        part[find_boundaries(_enlarge(true[window]), mode="inner")] = TRUE
        part[find_boundaries(_enlarge(mask[window]), mode="inner")] = FOUND
    picture[:h, :w] = part
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    corner = np.array([window[0].start, window[1].start])
    for i in range(len(prompts)):
        if prompts.has_box[i]:
            y0, x0, y1, x1 = ZOOM * (prompts.boxes_yx[i] - np.tile(corner, 2))
            draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=PROMPT)
        for y, x in ZOOM * (prompts.points_yx[i] - corner + 0.5):
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=PROMPT, outline=(0, 0, 0))
    draw.rectangle((0, side - 13, 54, side), fill=(0, 0, 0))
    draw.text((3, side - 13), f"IoU {np.mean(ious):.2f}", fill=(255, 255, 255))
    return np.asarray(canvas)


def predict(
    predictor: Predictor, plane: Plane, prompts: PlanePrompts
) -> MaskPrediction:
    """Decode prompts as the panels do, a large plane in tiles."""
    seen = show_plane(predictor, plane[1], TileSettings())
    return run_steps(seen.predict_steps(prompts))


def _enlarge(picture: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    return picture.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)


def draw_sheet(predictor: Predictor, planes: list[Plane]) -> Picture:
    """Draw a pair of tiles for each plane, two pairs to a row."""
    pairs = []
    for k, plane in enumerate(planes):
        rng = np.random.default_rng((0, k))
        objects = index_objects(plane[2], min_area=30)
        middle = objects.boxes_yx[int(rng.integers(len(objects)))]
        window = crop_tile(
            plane, int(middle[[0, 2]].mean()), int(middle[[1, 3]].mean())
        )
        low = np.array([s.start for s in window] * 2)
        whole = ((objects.boxes_yx >= low) & (objects.boxes_yx <= low + TILE)).all(1)
        shown = rng.permutation(np.flatnonzero(whole))[:OBJECTS]
        objects = objects.select(np.sort(shown))
        tiles = [
            draw_tile(plane, window, prompts, predict(predictor, plane, prompts))
            for prompts in (
                sample_jittered_box(objects, rng),
                sample_random_point(objects, rng),
            )
        ]
        pairs.append(np.pad(np.hstack(tiles), ((2, 2), (2, 2), (0, 0))))
    rows = [np.hstack(pairs[i : i + 2]) for i in range(0, len(pairs), 2)]
    return np.vstack(rows)


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    data = Path(os.environ.get("SAMSEG_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--model", default="default")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/images/embedded-model.png")
    )
    options = parser.parse_args()
    sheet = draw_sheet(
        Predictor(load_model(options.model)), choose_planes(options.data)
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    # 128 colours keep the documentation light
    Image.fromarray(sheet).quantize(128).save(options.out, optimize=True)
    print(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
