"""Small stacks, jobs that put one into a store, and what is there then."""

from __future__ import annotations

import numpy as np

from napari_samseg.core.cache.zarr_store import EmbeddingStore
from napari_samseg.core.embed.stack import Stack
from napari_samseg.core.embed.stack_job import StackJob
from napari_samseg.core.images import open_image
from napari_samseg.core.settings import ImageSettings
from napari_samseg.core.steps import run_steps


def make_volume(n: int = 6, size: tuple[int, int] = (48, 60)) -> np.ndarray:
    values = np.random.default_rng(0).normal(2000, 700, (n, *size))
    return values.clip(0).astype(np.uint16)


def make_job(data, model, location, **options) -> StackJob:
    stack = Stack(
        open_image(data), "stack.tif", options.pop("image", None) or ImageSettings()
    )
    return StackJob(stack, model, location=str(location), **options)


def embed(data, model, location, **options):
    return run_steps(make_job(data, model, location, **options).embed_steps())


def read_all(location) -> dict[tuple, np.ndarray]:
    """Return the features of all tiles of the only entry of a store."""
    store = EmbeddingStore(str(location), write=False)
    (digest,) = store.digests()
    entry = store.open_entry(digest)
    recipe = entry.recipe
    found = {}
    for place in range(recipe.n_planes):
        plane = recipe.plane_at(place)
        plane_digest = entry.plane_digest(plane)
        for tile in recipe.tiles:
            if plane_digest is not None:
                key = recipe.key(plane, tile, plane_digest)
                embedding = entry.get(key)
                if embedding is not None:
                    found[plane, tile] = embedding.features["image_embed"]
    return found
