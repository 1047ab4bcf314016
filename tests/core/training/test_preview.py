from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_samseg.core.images import open_image
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.settings import LoopSettings, TileSettings, TuneSettings
from napari_samseg.core.training.images import LabelledImage
from napari_samseg.core.training.presets import TuningPlan
from napari_samseg.core.training.preview import paint_previews
from napari_samseg.core.training.tuning import TuningJob
from napari_samseg.core.training.views import View
from napari_samseg.core.types import MaskPrediction


def prediction(*boxes: tuple[int, int, int, int], size: int) -> MaskPrediction:
    crops = tuple(np.ones((y1 - y0, x1 - x0), bool) for y0, x0, y1, x1 in boxes)
    n = len(boxes)
    return MaskPrediction(
        np.arange(1, n + 1),
        crops,
        np.array(boxes),
        (size, size),
        np.ones(n, np.float32),
        np.zeros((n, 4, 4), np.float32),
    )


def test_masks_come_back_to_their_plane() -> None:
    view = View("a", (3,), (10, 20, 30, 40), 0, (10, 10), 0, 2, True, "")
    small_inside = prediction((2, 3, 4, 5), (1, 1, 8, 9), size=10)
    (found,) = paint_previews([(view, small_inside, [5, 9])])
    assert (found.image, found.plane, found.box_yx) == ("a", (3,), view.tile)
    # the view shows every other pixel of its tile
    assert found.labels.shape == (20, 20)
    plane = np.zeros((50, 50), int)
    plane[10:30, 20:40] = found.labels
    expected = np.zeros((50, 50), int)
    expected[12:26, 22:38] = 9
    expected[14:18, 26:30] = 5
    np.testing.assert_array_equal(plane, expected)


def test_masks_from_before_are_kept(
    coin_labels, model: SamModel, tmp_path: Path
) -> None:
    picture, labels = coin_labels
    wide = np.concatenate([picture, picture], axis=1), np.zeros((128, 256), int)
    wide[1][:, :128] = labels
    wide[1][:, 128:] = np.where(labels, labels + 100, 0)
    plan = TuningPlan(
        tune=TuneSettings(objects=2, corrections=0),
        loop=LoopSettings(
            steps=4, learning_rate=0.1, warmup_steps=1, validate_every=2, ema_decay=0
        ),
        tiles=TileSettings(),
    )
    image = LabelledImage("wide", open_image(wide[0]), wide[1])
    job = TuningJob([image], model, tmp_path / "out", plan)
    list(job.run_steps())
    assert job.validation is not None
    before = job.validation.previews(first=True)
    after = job.validation.previews()
    assert before
    assert [plane.box_yx for plane in before] == [plane.box_yx for plane in after]
    assert any((a.labels != b.labels).any() for a, b in zip(before, after, strict=True))
    for preview in (*before, *after):
        y0, x0, y1, x1 = preview.box_yx
        assert preview.labels.shape == (y1 - y0, x1 - x0)
        assert set(np.unique(preview.labels)) - {0} <= set(
            np.unique(wide[1][y0:y1, x0:x1])
        )
