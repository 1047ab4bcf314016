"""A small stack of made-up embeddings, for tests of stores."""

from __future__ import annotations

import dataclasses

import numpy as np

from napari_samseg.core.cache.recipe import StackRecipe
from napari_samseg.core.types import PlaneEmbedding

SHAPE = (16, 8, 8)
RECIPE = StackRecipe(
    image="stack.tif",
    planes=(3, 4),
    plane_size=(40, 30),
    dtype="uint16",
    encoder_digest="e",
    model="m",
    embedding_shape=SHAPE,
    precision="float32",
    preprocessing=(("normalisation", "percentile"),),
    tiles=((0, 0, 30, 30), (10, 0, 40, 30)),
)
# the same with two planes, for what goes through all of them
SHORT = dataclasses.replace(RECIPE, image="short.tif", planes=(2,))


def features(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, SHAPE).astype(np.float32)


def embeddings(seed: int) -> dict[int, PlaneEmbedding]:
    """Both tiles of a plane, by number."""
    return {
        i: PlaneEmbedding({"image_embed": features(seed + i)}, (30, 30), (64, 64), "e")
        for i in range(2)
    }


def get(entry, plane=(1, 2), tile=0, digest="pixels"):
    recipe = entry.recipe
    return entry.get(recipe.key(plane, recipe.tiles[tile], digest))


def put(entry, plane, seed, digest="pixels"):
    entry.put_tiles(plane, digest, embeddings(seed))


def fill(store, recipe=SHORT):
    """Put all planes of a recipe into a store; return the entry."""
    entry = store.entry(recipe)
    for place in range(recipe.n_planes):
        put(entry, recipe.plane_at(place), place)
    return entry
