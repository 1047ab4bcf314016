"""The demo on the images in scikit-image's wheel."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_samseg.core.demo import DEMO_IMAGES, prompts_of_objects, run_demo
from napari_samseg.core.settings import ModelSettings


def finish(steps):
    stages = []
    while True:
        try:
            stages.append(next(steps).stage)
        except StopIteration as stop:
            return stages, stop.value


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The demo with the model that comes with the package."""
    folder = tmp_path_factory.mktemp("demo")
    _, report = finish(run_demo(folder, ModelSettings(device="cpu")))
    return report


@pytest.mark.parametrize(
    ("name", "n_objects"), [("coins", 22), ("cell", 1), ("nuclei", 24)]
)
def test_otsu_finds_the_objects_to_prompt(name, n_objects):
    demo_image = DEMO_IMAGES[name]
    labels = demo_image.find_objects(demo_image.read())
    assert labels.max() == n_objects
    assert set(np.unique(labels)) == set(range(n_objects + 1))


def test_prompts_alternate_and_lie_on_their_objects():
    labels = DEMO_IMAGES["coins"].find_objects(DEMO_IMAGES["coins"].read())
    prompts = prompts_of_objects(labels)
    assert prompts.has_box.tolist() == [i % 2 == 1 for i in range(22)]
    for i in np.flatnonzero(~prompts.has_box):
        y, x = prompts.points_yx[i, 0].astype(int)
        assert labels[y, x] == prompts.object_ids[i]
    for i in np.flatnonzero(prompts.has_box):
        y0, x0, y1, x1 = prompts.boxes_yx[i].astype(int)
        inside = labels == prompts.object_ids[i]
        assert inside[y0:y1, x0:x1].sum() == inside.sum()
        assert inside[y0].any()
        assert inside[y1 - 1].any()


def test_labels_are_16_bit_and_each_picture_shows_them(report):
    assert [result.name for result in report.results] == list(DEMO_IMAGES)
    for result in report.results:
        written = tifffile.imread(result.labels_path)
        assert written.dtype == np.uint16
        np.testing.assert_array_equal(written, result.labels)
        with Image.open(result.overlay_path) as picture:
            width, height = picture.size
        rows, columns = result.image.shape[:2]
        assert width / columns == height / rows == round(width / columns)
        assert set(result.seconds) == {
            "read",
            "find objects",
            "encode",
            "decode",
            "write",
        }


def test_each_coin_fits_the_component_it_was_prompted_on(report):
    coins = report.results[0]
    assert coins.name == "coins"
    assert {item.prompt for item in coins.objects} == {"point", "box"}
    poor = {i.object_id: round(i.iou, 2) for i in coins.objects if i.iou < 0.7}
    assert poor == {}


def test_the_cell_and_each_nucleus_are_found(report):
    _, cell, nuclei = report.results
    assert {item.prompt for item in nuclei.objects} == {"box"}
    assert cell.objects[0].iou > 0.8
    fits = [item.iou for item in nuclei.objects]
    assert min(fits) > 0.4
    assert np.mean(fits) > 0.7
