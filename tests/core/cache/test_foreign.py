"""Embeddings that other programs saved are read, and decoded as our own."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import zarr
from segment_anything import SamPredictor
from skimage import data

from napari_samseg.core.cache.foreign import open_foreign
from napari_samseg.core.errors import CacheError, InvalidImageError
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.predict import predict_masks
from napari_samseg.core.types import PlanePrompts

POINT = PlanePrompts(
    object_ids=np.array([1]),
    points_yx=np.array([[[20, 30]]], np.float32),
    point_labels=np.array([[1]]),
    boxes_yx=np.full((1, 4), np.nan, np.float32),
)
IMAGE = data.coins()[:48, :96]


@pytest.fixture
def model(tiny_sam):
    return SamModel(tiny_sam, name="tiny vit", family="sam")


@pytest.fixture
def predictor(tiny_sam):
    """segment_anything's own, which other programs use, with an image set."""
    predictor = SamPredictor(tiny_sam)
    predictor.set_image(np.stack([IMAGE] * 3, axis=-1))
    return predictor


def state(predictor):
    return {
        "original_size": predictor.original_size,
        "input_size": predictor.input_size,
        "features": predictor.features,
        "is_image_set": True,
    }


def masks_of(predictor):
    """Masks of the point, as the program that wrote the embedding gets them."""
    return predictor.predict(np.array([[30, 20]]), np.array([1]))[0]


def is_one_of(mask, masks):
    assert 0.05 < mask.mean() < 0.95, "a mask that says something"
    return max((mask & m).sum() / (mask | m).sum() for m in masks) > 0.99


def test_the_state_of_a_predictor_is_read_and_decoded(predictor, model, tmp_path):
    path = tmp_path / "sub-1_TEM_embedding.pt"
    torch.save(state(predictor), path)
    foreign = open_foreign(path)
    assert (foreign.n_planes, foreign.tiles) == (None, (None,))
    embedding = foreign.read(model)
    assert embedding.original_size == (48, 96)
    assert embedding.encoder_digest == model.encoder_digest
    prediction = predict_masks(model, embedding, POINT, islands=True)
    assert is_one_of(prediction.masks[0], masks_of(predictor))


class Code:
    def __reduce__(self):
        return (print, ("code was run",))


def test_a_pickle_with_code_is_refused_and_not_run(predictor, tmp_path, capsys):
    path = tmp_path / "embedding.pt"
    torch.save(state(predictor) | {"is_image_set": Code()}, path)
    with pytest.raises(CacheError, match="could run code"):
        open_foreign(path)
    path.write_bytes(pickle.dumps(Code(), protocol=2))
    with pytest.raises(CacheError, match="could run code"):
        open_foreign(path)
    assert capsys.readouterr().out == ""


def test_a_damaged_file_is_refused(predictor, tmp_path):
    path = tmp_path / "embedding.pt"
    torch.save(state(predictor), path)
    content = path.read_bytes()
    for keep in (0, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:keep])
        with pytest.raises(CacheError, match="damaged"):
            open_foreign(path)


def test_what_is_something_else_is_none(tmp_path, tiny_sam):
    torch.save(tiny_sam.state_dict(), tmp_path / "checkpoint.pt")
    assert open_foreign(tmp_path / "checkpoint.pt") is None
    assert open_foreign(tmp_path) is None
    assert open_foreign(tmp_path / "nowhere") is None
    zarr.create_group(tmp_path / "group.zarr")
    assert open_foreign(tmp_path / "group.zarr") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": None}, "no image set"),
        ({"is_image_set": False}, "no image set"),
        ({"features": torch.zeros(32, 4, 4)}, "no SAM's"),
        ({"features": torch.zeros(2, 32, 4, 4)}, "no SAM's"),
        ({"original_size": None}, "size of None"),
    ],
)
def test_a_state_that_cannot_be_is_refused(predictor, tmp_path, change, message):
    path = tmp_path / "embedding.pt"
    torch.save(state(predictor) | change, path)
    with pytest.raises(CacheError, match=message):
        open_foreign(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(1, 16, 4, 4)}, r"model tiny vit makes \(32, 4"),
        ({"original_size": (96, 96)}, "choose the model"),
        ({"features": torch.full((1, 32, 4, 4), torch.nan)}, "not finite"),
    ],
)
def test_another_model_is_refused(predictor, model, tmp_path, change, message):
    path = tmp_path / "embedding.pt"
    torch.save(state(predictor) | change, path)
    with pytest.raises(CacheError, match=message):
        open_foreign(path).read(model)


# -- micro-sam -------------------------------------------------------------------------


@pytest.fixture(params=[2, 3], ids=["zarr 2", "zarr 3"])
def group(request, tmp_path):
    group = zarr.create_group(tmp_path / "e.zarr", zarr_format=request.param)
    group.attrs["model_type"] = "vit_b"
    return group


def write(group, name, features, sizes, of=None):
    group.create_array(name, data=features, chunks=features.shape)
    (group if of is None else group[name]).attrs.update(sizes)


SIZES = {"input_size": [32, 64], "original_size": [48, 96]}


def test_an_image_of_micro_sam(group, predictor, model, tmp_path):
    write(group, "features", predictor.features.numpy(), SIZES)
    foreign = open_foreign(tmp_path / "e.zarr")
    assert foreign.notes == {"model_type": "vit_b"}
    assert foreign.embedding_shape == (32, 4, 4)
    prediction = predict_masks(model, foreign.read(model), POINT, islands=True)
    assert is_one_of(prediction.masks[0], masks_of(predictor))
    with pytest.raises(InvalidImageError, match="one image"):
        foreign.read(model, 0)


def test_a_stack_of_micro_sam(group, predictor, model, tmp_path):
    features = predictor.features.numpy()
    write(group, "features", np.stack([features * 0, features]), SIZES)
    foreign = open_foreign(tmp_path / "e.zarr")
    assert foreign.n_planes == 2
    embedding = foreign.read(model, 1)
    np.testing.assert_array_equal(embedding.features["image_embed"], features[0])
    prediction = predict_masks(model, embedding, POINT, islands=True)
    assert is_one_of(prediction.masks[0], masks_of(predictor))
    for plane in (None, 2, -1):
        with pytest.raises(InvalidImageError, match="planes 0 to 1"):
            foreign.read(model, plane)


@pytest.mark.parametrize("n_planes", [None, 3])
def test_tiles_of_micro_sam(group, model, tmp_path, n_planes):
    tiles = group.create_group("features")
    tiles.attrs.update({"shape": [50, 70], "tile_shape": [30, 40], "halo": [4, 6]})
    expected = ((0, 0, 34, 46), (0, 34, 34, 70), (26, 0, 50, 46), (26, 34, 50, 70))
    lead = (1,) if n_planes is None else (n_planes, 1)
    for number, (y0, x0, y1, x1) in enumerate(expected):
        size = (y1 - y0, x1 - x0)
        scaled = [int(n * 64 / max(size) + 0.5) for n in size]
        features = np.full((*lead, 32, 4, 4), number, np.float32)
        sizes = {"original_size": list(size), "input_size": scaled}
        write(tiles, str(number), features, sizes, of="tile")
    foreign = open_foreign(tmp_path / "e.zarr")
    assert (foreign.tiles, foreign.n_planes) == (expected, n_planes)
    for number, tile in enumerate(expected):
        embedding = foreign.read(model, None if n_planes is None else 2, tile)
        assert (embedding.features["image_embed"] == number).all()
        y0, x0, y1, x1 = tile
        assert embedding.original_size == (y1 - y0, x1 - x0)
    with pytest.raises(InvalidImageError, match="no tile None"):
        foreign.read(model)
    del tiles["2"]
    with pytest.raises(CacheError, match="lacks tile 2"):
        open_foreign(tmp_path / "e.zarr")


def test_what_micro_sam_did_not_finish_is_refused(group, predictor, tmp_path):
    write(group, "features", predictor.features.numpy(), {})
    with pytest.raises(CacheError, match="not finished"):
        open_foreign(tmp_path / "e.zarr")


def test_features_that_cannot_be_decoded_are_refused(group, model, tmp_path):
    features = np.random.default_rng(0).normal(size=(1, 32, 4, 4)).astype(np.float32)
    write(group, "features", features, SIZES)
    for path in (tmp_path / "e.zarr" / "features").rglob("*"):
        if path.is_file() and path.name not in ("zarr.json", ".zarray", ".zattrs"):
            path.write_bytes(b"damaged")
    foreign = open_foreign(tmp_path / "e.zarr")
    with pytest.raises(CacheError, match="is damaged"):
        foreign.read(model)
