"""How masks change when embeddings are stored in fewer bits, on real images."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from skimage.data import coins
from skimage.io import imread

from napari_samseg.core.cache.zarr_store import EmbeddingStore
from napari_samseg.core.demo import DEMO_IMAGES
from napari_samseg.core.embed.stack import Stack, stack_recipe
from napari_samseg.core.images import open_image
from napari_samseg.core.metrics.overlap import mask_iou
from napari_samseg.core.models.protocol import PromptableModel
from napari_samseg.core.planes import measure_plane
from napari_samseg.core.predict import predict_masks
from napari_samseg.core.prompts.from_labels import sample_box, sample_interior_point
from napari_samseg.core.prompts.object_index import index_objects
from napari_samseg.core.settings import ImageSettings, TileSettings

STORAGES = ("float16", "uint8")
# Folders of dsb2018.
PARTS = ("images", "labels")
# Objects of an image that are asked for, at most: all images count alike.
MOST_OBJECTS = 6


def real_images(n_more: int) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, pixels and labels of scikit-image's coins and of dsb2018's test."""
    yield "coins", coins(), DEMO_IMAGES["coins"].find_objects(coins())
    folder = Path(os.environ.get("SAMSEG_DATA", ".")) / "dsb2018"
    if not folder.is_dir():
        return
    with (folder / "index.csv").open(newline="") as file:
        tests = [row["id"] for row in csv.DictReader(file) if row["split"] == "test"]
    # spread over the kinds, by which they are not sorted
    for name in tests[:: max(1, len(tests) // max(1, n_more))][:n_more]:
        yield name, *(imread(folder / part / f"{name}.png") for part in PARTS)


def compare_masks(
    model: PromptableModel, folder: Path, n_more: int
) -> dict[str, dict[str, Any]]:
    """Decode the same prompts from embeddings as made, and as read from a store.

    Returns
    -------
    dict
        Of each storage, the bytes on disk of a plane, those of its float32 values,
        and the IoU of each object.
    """
    figures = {
        storage: {"bytes": 0, "float32_bytes": 0, "iou": []} for storage in STORAGES
    }
    n_images = 0
    for name, pixels, labels in real_images(n_more):
        n_images += 1
        stack = Stack(open_image(pixels), name, ImageSettings())
        plane = measure_plane(stack.source)
        made = model.encode(plane.read())
        rng = np.random.default_rng(0)
        objects = index_objects(labels, min_area=20)
        chosen = np.arange(min(len(objects), MOST_OBJECTS))
        prompts = [
            sample(objects, rng).select(chosen)
            for sample in (sample_box, sample_interior_point)
        ]
        expected = [predict_masks(model, made, shown).masks for shown in prompts]
        for storage, figure in figures.items():
            recipe = stack_recipe(stack, model, TileSettings("whole"), storage)
            entry = EmbeddingStore(folder / storage).entry(recipe)
            assert entry is not None
            entry.put_tiles((), plane.digest, {0: made})
            stored = entry.get(recipe.key((), recipe.tiles[0], plane.digest))
            assert stored is not None
            figure["bytes"] += entry.nbytes()
            figure["float32_bytes"] += made.nbytes
            for shown, masks in zip(prompts, expected, strict=True):
                found = predict_masks(model, stored, shown).masks
                figure["iou"] += [
                    mask_iou(f, e) for f, e in zip(found, masks, strict=True)
                ]
    for figure in figures.values():
        figure["bytes"] //= n_images
        figure["float32_bytes"] //= n_images
    return figures
