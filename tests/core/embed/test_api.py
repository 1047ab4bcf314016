"""A stack is encoded in one call."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from embedding_jobs import make_volume, read_all

import napari_samseg as samseg
from napari_samseg.core.cache.place import default_store_folder
from napari_samseg.core.cache.zarr_store import EmbeddingStore
from napari_samseg.core.errors import CacheError, MissingFileError, SettingsError
from napari_samseg.core.models.sam import SamModel


def test_an_array_goes_to_the_default_store_and_is_found_again(model):
    volume, seen = make_volume(), []
    report = samseg.embed(volume, model=model, on_progress=seen.append)
    assert (report.encoded, report.kept) == (6, 0)
    assert seen[-1].total == 6
    assert samseg.embed(volume, model=model).kept == 6
    # by its pixels, whatever it is called
    assert samseg.embed(volume, model=model, name="stack").kept == 6
    assert len(EmbeddingStore(default_store_folder()).digests()) == 1


def test_arrays_of_one_shape_do_not_take_each_others_place(model):
    volume = make_volume(2)
    samseg.embed(volume, model=model)
    assert samseg.embed(volume[::-1], model=model).encoded == 2
    assert samseg.embed(volume, model=model).kept == 2


def test_a_file_is_called_by_its_path(model, tmp_path):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, make_volume(3), photometric="minisblack")
    tiles = samseg.TileSettings("whole")
    settings = samseg.ImageSettings(normalisation="minmax")
    report = samseg.embed(
        str(path),
        model=model,
        out=tmp_path / "store",
        planes=(1, 3),
        tiles=tiles,
        settings=settings,
        storage="uint8",
    )
    assert report.encoded == 2
    (recipe,) = EmbeddingStore(tmp_path / "store").recipes().values()
    assert recipe.image == str(path)
    assert recipe.storage == "uint8"
    assert dict(recipe.preprocessing)["normalisation"] == "minmax"
    assert {plane for plane, _ in read_all(tmp_path / "store")} == {(1,), (2,)}


def test_a_single_plane(model):
    plane = np.asarray(make_volume(1)[0])
    assert samseg.embed(plane, model=model).encoded == 1


def test_what_cannot_be_is_refused(model, tmp_path):
    with pytest.raises(MissingFileError, match="no image"):
        samseg.embed(tmp_path / "none.tif", model=model)
    with pytest.raises(SettingsError, match="4:9 are not in a stack of 6"):
        samseg.embed(make_volume(), model=model, planes=(4, 9))
    with pytest.raises(SettingsError, match="float64"):
        samseg.embed(make_volume(), model=model, storage="float64")


def test_segment_takes_what_is_in_a_store(model, tmp_path, monkeypatch):
    volume = make_volume(size=(100, 130))
    store = tmp_path / "s"
    samseg.embed(volume, model=model, out=store)
    monkeypatch.setattr(SamModel, "encode_batch_steps", None)
    found = samseg.segment(
        volume, points=[(50, 60)], plane=2, model=model, embeddings=store
    )
    assert found.plane_size == (100, 130)
    with pytest.raises(CacheError, match="holds no embeddings of the image"):
        samseg.segment(
            volume + 1, points=[(50, 60)], plane=2, model=model, embeddings=store
        )
