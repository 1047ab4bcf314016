"""Sessions take planes from stores, and add to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image
from napari.layers._source import Source

import napari_samseg as samseg
from napari_samseg.adapters.read_layers import ImageView
from napari_samseg.core.cache.zarr_store import EmbeddingStore
from napari_samseg.core.models.sam import SamModel
from napari_samseg.widgets.sessions import open_session
from napari_samseg.widgets.stores import choose_store, default_store
from napari_samseg.widgets.workers import RUNNING

pytestmark = pytest.mark.usefixtures("qtbot")


@pytest.fixture
def viewer():
    return ViewerModel()


@pytest.fixture
def stack(coins):
    """Four planes, all different."""
    return np.stack([np.roll(coins, 5 * i, axis=1) for i in range(4)])


@pytest.fixture
def image(viewer, stack):
    return viewer.add_image(stack, name="stack")


@pytest.fixture
def open_there(viewer, image, model, qtbot):
    """Open a session, and close it once its jobs have ended."""
    opened = []

    def open_and_wait(**options):
        session = open_session(viewer, image, model=model, **options)
        opened.append(session)
        rest(session)
        return session

    def rest(session):
        session.wait()
        # tiles follow in the background
        qtbot.waitUntil(lambda: not RUNNING, timeout=30_000)

    yield open_and_wait
    for session in opened:
        session.close()
        rest(session)


def show(viewer, session, place, qtbot):
    viewer.dims.set_point(0, place)
    session.wait()
    qtbot.waitUntil(lambda: not RUNNING, timeout=30_000)
    assert session.is_encoded


def only_entry(location=None):
    store = EmbeddingStore(location or default_store(), write=False)
    (digest,) = store.digests()
    return store.open_entry(digest)


def forbid_encoding(monkeypatch):
    def refuse(*values, **names):
        raise AssertionError("the encoder was called")

    monkeypatch.setattr(SamModel, "encode_batch_steps", refuse)


@pytest.mark.parametrize("tiling", ["auto", "whole"])
def test_stored_planes_are_not_encoded_again(
    viewer, stack, model, open_there, qtbot, monkeypatch, tiling
):
    tiles = samseg.TileSettings(tiling, tile=128)
    samseg.embed(stack, model=model, tiles=tiles, name="stack", storage="uint8")
    forbid_encoding(monkeypatch)
    session = open_there(tiles=tiles)
    assert session.tile_settings == tiles
    show(viewer, session, 3, qtbot)
    assert session.prompt(points=[[60, 60]]).masks.any()


def test_a_chosen_store_is_looked_into(
    viewer, image, stack, model, open_there, monkeypatch, tmp_path
):
    samseg.embed(stack, model=model, out=tmp_path / "elsewhere")
    choose_store(image, str(tmp_path / "elsewhere"))
    forbid_encoding(monkeypatch)
    assert open_there().is_encoded


def test_planes_looked_at_are_added_to_what_is_stored(
    viewer, stack, model, open_there, qtbot
):
    session = open_there()
    # nobody asked for a store
    assert not Path(default_store()).exists()
    samseg.embed(stack, model=model, planes=(0, 1), name="stack")
    show(viewer, session, 3, qtbot)
    assert only_entry().recorded() == {0, 3}
    # other axes are other planes
    viewer.dims.order = (1, 0, 2)
    show(viewer, session, 2, qtbot)
    assert only_entry().recorded() == {0, 3}


def test_other_tiles_are_other_embeddings(viewer, stack, model, open_there, qtbot):
    samseg.embed(stack, model=model, planes=(0, 1), name="stack")
    session = open_there(tiles=samseg.TileSettings("auto", tile=128))
    show(viewer, session, 3, qtbot)
    assert only_entry().recorded() == {0}


def test_a_damaged_store_keeps_nobody_from_segmenting(viewer, image, model, qtbot):
    folder = Path(default_store())
    folder.mkdir(parents=True)
    (folder / "zarr.json").write_text("{")
    session = open_session(viewer, image, model=model)
    messages = []
    session.reported.connect(lambda text, is_error: messages.append(text))
    for place in (0, 2, 3):
        show(viewer, session, place, qtbot)
    (told,) = (text for text in messages if "stored embeddings" in text)
    assert "damaged" in told
    session.close()


def test_what_an_image_is_called(stack, tmp_path):
    def name(layer_name, path):
        layer = Image(stack, name=layer_name)
        layer._source = Source(path=path)
        return ImageView.of_layer(layer).name

    path = str(tmp_path / "cells.ome.tif")
    assert name("cells", None) == "cells"
    assert name("cells.ome", path) == path
    assert name("cells.ome [1]", path) == f"{path} (cells.ome [1])"
    # channels of one file, each a layer of its own
    assert name("C1", path) == f"{path} (C1)"
    url = "https://example.org/cells.zarr"
    assert name("cells", url) == url
