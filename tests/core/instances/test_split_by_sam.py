"""Nuclei that touch, in a real image, taken apart by the embedded model."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import io, measure

from napari_samseg.core.images import open_image
from napari_samseg.core.instances.split_by_sam import split_by_sam
from napari_samseg.core.metrics.overlap import matched_iou
from napari_samseg.core.models import load_model
from napari_samseg.core.planes import measure_plane
from napari_samseg.core.predict import Predictor
from napari_samseg.core.settings import TileSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.tiled import TiledPlane, plan_tiles


@pytest.fixture(scope="module")
def tissue(shared_data):
    folder = shared_data / "dsb2018"
    (path,) = (folder / "images").glob("1631352d*.png")
    return io.imread(path), io.imread(folder / "labels" / path.name)


@pytest.fixture(scope="module")
def look():
    predictor = Predictor(load_model("default", device="cpu", precision="exact"))

    def look(image):
        plane = measure_plane(open_image(image))
        tiles = plan_tiles(plane.size, predictor.model.input_size, TileSettings())
        return TiledPlane(predictor, plane, tiles)

    return look


def test_nuclei_that_touch(tissue, look):
    image, true = tissue
    mask = true > 0
    together = measure.label(mask)
    checked = run_steps(split_by_sam(look(image), mask))
    found = checked.labels
    np.testing.assert_array_equal(found > 0, mask, "no pixel is lost or added")
    ids = np.unique(found[mask])
    np.testing.assert_array_equal(ids, np.arange(1, len(ids) + 1))
    # parts lie in one component, and together are all of it
    for item in checked.objects:
        (component,) = np.unique(together[np.isin(found, item.ids)])
        assert np.isin(found[together == component], item.ids).all()
        assert (item.verdict == "split") == (len(item.ids) > 1)
    assert sum(len(item.ids) for item in checked.objects) == len(ids)
    before, after = (
        np.mean(list(matched_iou(a, true).values())) for a in (together, found)
    )
    assert after > before + 0.05, (before, after)
    split = [item for item in checked.objects if item.verdict == "split"]
    is_right = [len(np.unique(true[np.isin(found, item.ids)])) > 1 for item in split]
    assert np.mean(is_right) >= 0.75
    assert str(checked).startswith(f"{together.max()} objects checked, {len(split)} ")


def test_what_the_model_does_not_see_is_listed(tissue, look):
    """Labels that lie across nothing in particular stay, and come first."""
    image, true = tissue
    wrong = np.zeros(true.shape, bool)
    wrong[::60, :60] = wrong[1::60, :60] = True
    checked = run_steps(split_by_sam(look(image), wrong))
    np.testing.assert_array_equal(checked.labels > 0, wrong)
    doubts = [item.doubt for item in checked.objects]
    assert doubts == sorted(doubts, reverse=True)
    verdicts = [item.verdict for item in checked.objects]
    assert verdicts.count("disagrees") >= len(verdicts) / 2


def test_touching_objects_of_different_ids_stay_apart(tissue, look):
    image, true = tissue
    checked = run_steps(split_by_sam(look(image), true))
    pairs = np.unique(np.stack([true[true > 0], checked.labels[true > 0]]), axis=1)
    assert len(np.unique(pairs[1])) == pairs.shape[1]


def test_no_object_at_all(tissue, look):
    image, true = tissue
    checked = run_steps(split_by_sam(look(image), np.zeros_like(true)))
    assert not checked.labels.any()
    assert checked.objects == ()
